"""A section made as large as a benchmark wants: cells of a real one in shifted copies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from celldetr.errors import InputError
from celldetr.research.simulation.bundle import cell_ids
from celldetr.spatial.section import Section, X, Y

GAP_UM = 100.0  # between copies


def resample(section: Section, n_cells: int, seed: int = 0) -> Section:
    """Whole copies of a section side by side in a grid, and of the last as many cells as are wanted.

    Counts, areas and polygons are those of the original cells; places are shifted, ids are new. Fewer cells than the
    section has are a random part of it.

    Args:
        section: a real one.
        n_cells: wanted.
        seed: of which cells the incomplete copy has, and of the ids.

    Raises:
        InputError: ``n_cells`` is not positive, or the section has no cells.
    """
    import shapely
    from anndata import AnnData

    n = section.cells.n_obs
    if n_cells < 1 or n < 1:
        raise InputError(f"n_cells={n_cells} of a section of {n}: both must be at least 1")
    rng = np.random.default_rng(seed)
    copies = math.ceil(n_cells / n)
    last = np.sort(rng.permutation(n)[: n_cells - (copies - 1) * n])
    rows = np.concatenate([np.tile(np.arange(n), copies - 1), last])
    copy = np.concatenate([np.repeat(np.arange(copies - 1), n), np.full(len(last), copies - 1)])
    points = section.points
    step = np.ptp(points, axis=0) + GAP_UM
    side = math.ceil(math.sqrt(copies))
    shift = np.column_stack([copy % side, copy // side]) * step

    ids = np.sort(rng.choice(2**32, n_cells, replace=False)).astype(np.uint32)
    obs = section.cells.obs.iloc[rows].set_axis(cell_ids(ids), axis=0)
    cells = AnnData(section.cells.X[rows], obs=obs, var=section.cells.var.copy())
    cells.obs[X], cells.obs[Y] = points[rows, 0] + shift[:, 0], points[rows, 1] + shift[:, 1]

    def moved(polygons: Any) -> Any:
        if polygons is None:
            return None
        chosen = np.asarray(polygons, dtype=object)[rows]
        vertices = shapely.get_num_coordinates(chosen)  # 0 of None
        return shapely.set_coordinates(
            chosen.copy(), shapely.get_coordinates(chosen) + np.repeat(shift, vertices, axis=0)
        )

    source = section.source | {"resampled": {"cells": n, "copies": copies, "seed": seed}}
    name = f"{section.name}-{n_cells}"
    return Section(name, cells, moved(section.nuclei), moved(section.outlines), None, source)
