"""Seconds that a step of training takes with learned, selected and other queries: the variants of ``queries-consep``.

CELLDETR_DATA=<folder> OMP_NUM_THREADS=1 python benchmarks/query_time.py | tee benchmarks/results/query_time.txt

The variants take turns in one process, ``STEPS`` steps each (A B C D A B C D ...), on the same crops, so that what else
runs on the machine hits all of them. Trials of the study ran on different days, and their own clocks do not compare.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from celldetr.training.run import Run

from celldetr.research.ablation.study import load_study
from celldetr.training.data import load_data
from celldetr.training.loop import start_fabric

STEPS, WARM = 3, 2  # steps of a turn, and turns that are not counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=12)
    args = parser.parse_args()
    study = load_study("queries-consep")
    recipes = {name: study.recipe_of(name, 0) for name in study.variants}
    data = load_data(next(iter(recipes.values())))
    with tempfile.TemporaryDirectory() as folder:
        runs, batches = {}, {}
        for name, recipe in recipes.items():
            runs[name] = Run(recipe, Path(folder), start_fabric(recipe.training.precision, "cpu", 1), data)
            runs[name].distribute()
            batches[name] = enumerate(runs[name].crops(0))
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(WARM + args.turns):
            for name, run in runs.items():
                some = [next(batches[name]) for _ in range(STEPS)]
                start = time.perf_counter()
                for step, batch in some:
                    run.step(step, batch)
                if turn >= WARM:
                    seconds[name].append((time.perf_counter() - start) / STEPS)
    base = np.array(seconds[study.baseline])
    print(f"{args.turns} turns of {STEPS} steps of {recipe.training.batch_size} crops; medians")
    print(f"{'':40} seconds a step   to {study.variants[study.baseline].title}, turn by turn")
    for name, values in seconds.items():
        ratio = float(np.median(np.array(values) / base))
        print(f"{study.variants[name].title:40} {np.median(values):14.2f}   {ratio:.2f}")


if __name__ == "__main__":
    main()
