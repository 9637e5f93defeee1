"""A slide's table, written band by band, of random cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.schema import CELLS, cell_schema, table_metadata
from celldetr.model.output import TileCells
from celldetr.slide.table_writer import joint_bounds, write_table

TYPES = ("lymphocyte", "epithelial", "stromal")


def some_cells(n: int, seed: int = 0) -> tuple[TileCells, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 90_000, (n, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 40, (n, 2))], 1)
    probabilities = rng.dirichlet(np.ones(len(TYPES)), n).astype(np.float32).reshape(n, len(TYPES))
    embeddings = rng.normal(size=(n, 8)).astype(np.float16)
    return TileCells(boxes, rng.random(n).astype(np.float32), probabilities, embeddings), boxes


def write_parts(directory: Path, sizes: list[int]) -> tuple[Path, list[tuple[TileCells, NDArray[np.float64]]]]:
    parts = [some_cells(n, seed) for seed, n in enumerate(sizes)]
    bounds = joint_bounds(np.concatenate([np.zeros((0, 4)), *(boxes for _, boxes in parts)]))
    metadata = table_metadata({"slide": "s.svs", "mpp": 0.25, "types": list(TYPES)}, bounds)
    schema = cell_schema(TYPES, 8).with_metadata(metadata)
    write_table(directory / CELLS, schema, (cells for cells, _ in parts), TYPES, (0.25, 0.25))
    return directory / CELLS, parts
