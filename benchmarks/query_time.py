"""Seconds that a step of training takes with learned, selected and other queries: the variants of ``queries-consep``.

CELLDETR_DATA=<folder> OMP_NUM_THREADS=1 python benchmarks/query_time.py | tee benchmarks/results/query_time.txt

The variants take turns in one process, ``STEPS`` steps each (A B C D A B C D ...), on the same crops, so that what else
runs on the machine hits all of them. Trials of the study ran on different days, and their own clocks do not compare.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from celldetr.research.ablation.study import load_study
from celldetr.training.data import load_data
from celldetr.training.loop import build
from celldetr.training.processes import start_fabric
from celldetr.training.trainer import Trainer

STEPS, WARM = 3, 2  # steps of a turn, and turns that are not counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=12)
    args = parser.parse_args()
    study = load_study("queries-consep")
    recipes = {name: study.recipe_of(name, 0) for name in study.variants}
    data = load_data(next(iter(recipes.values())))
    trainers, batches = {}, {}
    for name, recipe in recipes.items():
        fabric = start_fabric("cpu", 1)
        objective, _ = build(recipe, data, fabric.device)
        trainers[name] = Trainer(objective.loss, recipe.training, fabric)
        trainers[name].distribute()
        dataset = objective.dataset(recipe.training.steps * recipe.training.batch_size)
        batches[name] = enumerate(trainers[name].batches(dataset, objective.collate))
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(WARM + args.turns):
        for name, trainer in trainers.items():
            some = [next(batches[name]) for _ in range(STEPS)]
            start = time.perf_counter()
            for step, batch in some:
                trainer.step(step, batch)
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
