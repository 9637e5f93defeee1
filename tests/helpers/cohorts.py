"""Cohorts with known groups of cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.cell_tables import random_cells, write_run


def planted(n: int, groups: int, d: int = 16, seed: int = 0) -> tuple[NDArray[np.float16], NDArray[np.intp]]:
    """(n, d) embeddings around well separated directions, and the group of each."""
    rng = np.random.default_rng(seed)
    centres = 4 * np.linalg.qr(np.random.default_rng(99).normal(size=(d, d)))[0][:groups]
    group = rng.integers(0, groups, n)
    return (centres[group] + 0.35 * rng.normal(size=(n, d))).astype(np.float16), group


def write_cohort(folder: Path, sizes: dict[str, int], groups: int = 5) -> dict[str, NDArray[np.intp]]:
    """A folder of results a slide; returns the groups of their cells."""
    known = {}
    for i, (name, n) in enumerate(sizes.items()):
        embeddings, known[name] = planted(n, groups, seed=i)
        run = {"slide": f"{name}.svs", "mpp": 0.5, "width": 2220, "height": 2967}
        write_run(folder / name, random_cells(n, seed=i), embeddings, run, row_group=150)
    return known


def shuffled(folder: Path, cells: pd.DataFrame, embeddings: NDArray[np.float16], seed: int) -> Path:
    """The same cells in another order."""
    order = np.random.default_rng(seed).permutation(len(cells))
    return write_run(folder, cells.iloc[order].reset_index(drop=True), embeddings[order])
