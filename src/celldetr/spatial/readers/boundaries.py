"""Outlines of cells and nuclei: tables of vertices in, one shapely polygon a cell out.

A boundary table has a row a vertex, and the vertices of a ring one after the other, the first one repeated at the end.
Since version 2 a cell can have several nuclei, or none; ``label_id`` tells the rings apart, but early builds of 2.0
lack it and write the rings of a cell's nuclei behind each other.
"""

from __future__ import annotations

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
    """Rings of a boundary table, in the order of the file.

    Args:
        path: ``cell_boundaries`` or ``nucleus_boundaries``, .parquet or .csv.gz.

    Returns:
        (P,) ids of the cells they belong to, and (P,) polygons in micrometres.

    Raises:
        InputError: the file cannot be read or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet as pq

    with reading(path):
        if path.suffix == ".parquet":
            names = pq.read_schema(path).names
            table = pq.read_table(path, columns=[name for name in (*_COLUMNS, "label_id") if name in names])
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
        labelled = "label_id" in names
        keys = table["label_id"].to_numpy().astype(np.int64) if labelled else cells
    starts = np.flatnonzero(np.concatenate([[True], (keys[1:] != keys[:-1]) | (cells[1:] != cells[:-1])]))
    if not labelled:
        starts = split_rings(vertices, starts)
    return ids[cells[starts]], _polygons(vertices, starts)


def split_rings(vertices: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where rings start, given where runs of one cell's vertices do: a ring ends where its first vertex comes back.

    Args:
        vertices: (V, 2).
        starts: (R,) rising, the first 0.

    Returns:
        (P,) rising, P >= R. A remainder that is no closed ring itself is left with the ring before it.
    """
    total = len(vertices)
    done = [starts]
    while len(starts):
        ends = _ends(np.concatenate(done), starts, total)
        owner = np.repeat(np.arange(len(starts)), ends - starts)
        position = np.arange(len(owner)) - np.repeat(np.cumsum(ends - starts) - (ends - starts), ends - starts)
        index = np.repeat(starts, ends - starts) + position
        back = (vertices[index] == vertices[starts][owner]).all(axis=1) & (position >= _FEWEST - 1)
        first = np.full(len(starts), total, np.int64)
        np.minimum.at(first, owner[back], index[back])
        rest = first + 1
        new = rest[rest + _FEWEST <= ends]
        stops = ends[rest + _FEWEST <= ends]
        starts = new[(vertices[new] == vertices[stops - 1]).all(axis=1)]
        done.append(starts)
    return np.sort(np.concatenate(done))


def _ends(all_starts: NDArray[np.int64], starts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    edges = np.append(np.sort(all_starts), total)
    return edges[np.searchsorted(edges, starts, side="right")]


def _polygons(vertices: NDArray[np.float64], starts: NDArray[np.int64]) -> Polygons:
    """(P,) polygons, None where a ring has too few vertices or one that is not finite."""
    import shapely

    ends = np.append(starts[1:], len(vertices))
    good = (ends - starts >= _FEWEST) & np.logical_and.reduceat(np.isfinite(vertices).all(axis=1), starts)
    closed = (vertices[starts] == vertices[ends - 1]).all(axis=1)
    if not closed.all():  # shapely wants rings closed
        vertices = np.insert(vertices, ends[~closed], vertices[starts[~closed]], axis=0)
        shift = np.concatenate([[0], np.cumsum(~closed)])
        starts, ends = starts + shift[:-1], ends + shift[1:]
    used = np.repeat(good, ends - starts)
    offsets = np.concatenate([[0], np.cumsum((ends - starts)[good])])
    out = np.full(len(starts), None, dtype=object)
    out[good] = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, vertices[used], offsets=(offsets, np.arange(len(offsets)))
    )
    return out


def one_per_cell(
    owners: NDArray[np.object_], polygons: Polygons, ids: NDArray[np.object_]
) -> tuple[Polygons, dict[str, int]]:
    """The largest polygon of each cell.

    Args:
        owners: (P,) ids of the cells that the polygons belong to.
        polygons: (P,).
        ids: (N,) of the section's cells.

    Returns:
        (N,) polygons, None where a cell has none; and numbers, where they are not 0, of cells that have
        ``several``, of ``foreign`` polygons, whose cell is not in the section, and of ``damaged`` ones.
    """
    import pandas as pd
    import shapely

    row = pd.Index(ids).get_indexer(pd.Index(owners))
    good = ~shapely.is_missing(polygons)
    known = (row >= 0) & good
    counts: dict[str, Any] = {"foreign": (row < 0).sum(), "damaged": (~good).sum()}
    row, kept = row[known], polygons[known]
    order = np.lexsort((shapely.area(kept), row))
    row, kept = row[order], kept[order]
    last = np.append(row[1:] != row[:-1], True) if len(row) else np.empty(0, bool)
    out = np.full(len(ids), None, dtype=object)
    out[row[last]] = kept[last]
    counts["several"] = (np.bincount(row, minlength=1) > 1).sum()
    return out, {name: int(number) for name, number in counts.items() if number}
