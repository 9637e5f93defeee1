"""A slide's table written in parts, of random cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.schema import cell_rows
from celldetr.model.output import TileCells
from celldetr.slide.parts import PartInfo, PartStore

TYPES = ("lymphocyte", "epithelial", "stromal")


def some_cells(n: int, seed: int = 0) -> tuple[TileCells, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 90_000, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 40, (n, 2))], 1)
    probabilities = rng.dirichlet(np.ones(len(TYPES)), n).astype(np.float32).reshape(n, len(TYPES))
    embeddings = rng.normal(size=(n, 8)).astype(np.float16)
    return TileCells(boxes, rng.random(n).astype(np.float32), probabilities, embeddings), boxes


def write_parts(directory: Path, sizes: list[int]) -> tuple[Path, list[tuple[TileCells, NDArray[np.float64]]]]:
    store = PartStore(directory, TYPES, 8)
    parts = [some_cells(n, seed) for seed, n in enumerate(sizes)]
    for band, (cells, boxes) in enumerate(parts):
        bounds = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist()) if len(boxes) else None
        info = PartInfo(band, len(boxes), 1, 0.1, dict.fromkeys(TYPES, 0), bounds)
        store.write(cell_rows(cells, TYPES, (0.25, 0.25)), info)
    infos = store.infos(range(len(sizes)))
    return store.finish(infos, {"slide": "s.svs", "mpp": 0.25, "types": list(TYPES)}), parts
