"""Outlines of cells and nuclei: tables of vertices in, one shapely polygon a cell out.

A boundary table has a row a vertex, and the vertices of a ring one after the other, the first one repeated at the end.
Since version 2 a cell can have several nuclei, or none; ``label_id`` tells the rings apart, but early builds of 2.0
lack it and write the rings of a cell's nuclei behind each other.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.spatial.readers.common import as_text, reading
from celldetr.spatial.section import Polygons

_COLUMNS = ("cell_id", "vertex_x", "vertex_y")
_FEWEST = 4  # vertices of a ring, the repeated one included


def read_boundaries(path: Path) -> tuple[NDArray[np.object_], Polygons]:
    """Rings of a boundary table -> (P,) ids of their cells, and (P,) polygons in micrometres.

    A ring that has too few vertices, one that is not finite, or is not closed, is None.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet as pq

    with reading(path):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        else:
            convert = pyarrow.csv.ConvertOptions(column_types={"cell_id": pa.string()})
            table = pyarrow.csv.read_csv(path, convert_options=convert)
    names = table.column_names
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        raise InputError(
            f"{path}: has no column {', '.join(missing)} (it has {', '.join(names[:12])}); expected the boundaries of a"
            " Xenium bundle, unchanged"
        )
    if not len(table):
        return np.empty(0, object), np.empty(0, object)
    with reading(path):
        vertices = np.column_stack([table[name].to_numpy().astype(np.float64) for name in _COLUMNS[1:]])
        encoded = pc.dictionary_encode(table["cell_id"].combine_chunks())
        cells = encoded.indices.to_numpy().astype(np.int64)
        ids = as_text(encoded.dictionary.to_numpy(zero_copy_only=False))
        labels = table["label_id"].to_numpy().astype(np.int64) if "label_id" in names else cells
    starts = np.flatnonzero(np.append(True, (labels[1:] != labels[:-1]) | (cells[1:] != cells[:-1])))
    if "label_id" not in names:
        starts = split_rings(vertices, starts)
    return ids[cells[starts]], _polygons(vertices, starts)


def split_rings(vertices: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where rings start, given where each cell's vertices do: a ring ends where its first vertex comes back."""
    points = (vertices[:, 0] + 1j * vertices[:, 1]).tolist()
    rings = []
    for start, end in pairwise([*starts.tolist(), len(points)]):
        first = start
        while first < end:
            rings.append(first)
            try:
                first = points.index(points[first], first + _FEWEST - 1, end) + 1
            except ValueError:
                break
    return np.array(rings, dtype=np.int64)


def _polygons(vertices: NDArray[np.float64], starts: NDArray[np.int64]) -> Polygons:
    import shapely

    ends = np.append(starts[1:], len(vertices))
    lengths = ends - starts
    good = (lengths >= _FEWEST) & (vertices[starts] == vertices[ends - 1]).all(axis=1)
    good &= np.logical_and.reduceat(np.isfinite(vertices).all(axis=1), starts)
    offsets = np.append(0, np.cumsum(lengths[good]))
    parts = offsets, np.arange(len(offsets))
    out = np.full(len(starts), None, dtype=object)
    out[good] = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, vertices[np.repeat(good, lengths)], offsets=parts
    )
    return out


def one_per_cell(
    owners: NDArray[np.object_], polygons: Polygons, ids: NDArray[np.object_]
) -> tuple[Polygons, dict[str, int]]:
    """The largest polygon of each of N cells, None where it has none, from P polygons and the ids of their ``owners``.

    Also numbers, where they are not 0, of cells that have ``several``, of ``foreign`` polygons, whose cell is not among
    ``ids``, and of ``damaged`` ones.
    """
    import pandas as pd
    import shapely

    row = pd.Index(ids).get_indexer(pd.Index(owners))
    good = ~shapely.is_missing(polygons)
    numbers: dict[str, Any] = {"foreign": (row < 0).sum(), "damaged": (~good).sum()}
    row, polygons = row[(row >= 0) & good], polygons[(row >= 0) & good]
    numbers["several"] = (np.bincount(row, minlength=1) > 1).sum()
    by_area = np.argsort(shapely.area(polygons), kind="stable")
    out = np.full(len(ids), None, dtype=object)
    out[row[by_area]] = polygons[by_area]  # of several, the last stays
    return out, {name: int(number) for name, number in numbers.items() if number}
