"""Does another kind of processor find the same cells? The sample slide in both precisions, as it is and held to AVX2.

python benchmarks/across_processors.py | tee benchmarks/results/across_processors.txt

A process each, because libraries choose their instructions once: oneDNN, ATen, MKL and Numba are held to AVX2 by the
environment. Cells of two runs are paired one to one within 1 um. A cell that scores near the threshold may fall on
either side of it, so what counts are those that score ``CERTAIN`` or more above it: of the cells of either run, the
share that the other has, at any score that it reports. The aim is 99.5 %.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import celldetr
from celldetr.evaluation.pairing import pair_cells

RADIUS_UM = 1.0
CERTAIN = 0.02  # above the threshold
AIM = 0.995
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx2,+fma",  # without it Numba takes those of this processor
}
PROCESSORS = {"native": {}, "AVX2": AVX2}
PRECISIONS = ("bf16", "32")


def predict(folder: Path, precision: str) -> None:
    """One run, in a process of its own."""
    model = celldetr.load_model(device="cpu", precision=precision)
    celldetr.predict_slide(celldetr.sample_slide(), folder, model=model)


def run(name: str, precision: str, folder: Path) -> pd.DataFrame:
    """The cells of a run on a kind of processor."""
    environment = {key: value for key, value in os.environ.items() if key not in AVX2} | PROCESSORS[name]
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, __file__, "--folder", str(folder), "--precision", precision]
    subprocess.run(command, env=environment, check=True)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    cells = celldetr.read_cells(next(folder.iterdir()), columns=["x_um", "y_um", "score", "type"])
    print(
        f"{name + ', ' + precision:14} {len(cells):6} cells {seconds:7.1f} s of CPU time, from start to table",
        flush=True,
    )
    return cells


def compare(a: pd.DataFrame, b: pd.DataFrame, least: float) -> tuple[float, float, float, float]:
    """Share of the certain cells of ``a`` that ``b`` has, and the other way round; share of these pairs whose type is
    the same; largest distance of a pair, um."""
    i, j = pair_cells(a[["x_um", "y_um"]].to_numpy(), b[["x_um", "y_um"]].to_numpy(), RADIUS_UM, rule="within_radius")
    first, second = a.iloc[i].reset_index(drop=True), b.iloc[j].reset_index(drop=True)
    shares = [float((p["score"] >= least).sum() / (o["score"] >= least).sum()) for p, o in ((first, a), (second, b))]
    certain = (first["score"] >= least) | (second["score"] >= least)
    same = (first["type"].astype(str) == second["type"].astype(str))[certain].mean()
    moved = np.hypot(first["x_um"] - second["x_um"], first["y_um"] - second["y_um"])[certain]
    return shares[0], shares[1], float(same), float(np.quantile(moved, 0.99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="32", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        predict(arguments.folder, arguments.precision)
        return
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} thread(s)")
    least = celldetr.load_model(device="cpu").threshold + CERTAIN
    with tempfile.TemporaryDirectory() as folder:
        kinds = itertools.product(PROCESSORS, PRECISIONS)
        runs = {f"{name}, {p}": run(name, p, Path(folder) / f"{name}-{p}") for name, p in kinds}
    print(f"\npairs within {RADIUS_UM:g} um; certain: score {least:.3f} or more")
    print(f"{'first':14} {'second':14} {'certain of first':>17} {'in second':>10} {'and back':>9}", end="")
    print(f" {'same type':>10} {'99 % moved less, um':>20}")
    worst = 1.0
    for one, other in itertools.combinations(runs, 2):
        there, back, types, moved = compare(runs[one], runs[other], least)
        worst = min(worst, there, back)
        certain = int((runs[one]["score"] >= least).sum())
        print(f"{one:14} {other:14} {certain:17} {there:10.2%} {back:9.2%} {types:10.2%} {moved:20.3f}")
    print(f"least share {worst:.2%}, aim {AIM:.1%}: {'reached' if worst >= AIM else 'missed'}")


if __name__ == "__main__":
    main()
