"""Rows of the cell table for cells that were given: in their order, with their ids and outlines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from celldetr.cells.rows import box_points, cell_rows, polygons
from celldetr.cells.schema import cell_schema
from celldetr.given.cells import GivenCells
from celldetr.model.output import TileCells

GIVEN_ID = "given_id"  # column: the cell's id in the file that it is from
ROW_GROUP = 16_384  # cells


def given_schema(types: Sequence[str], embedding_dim: int, given: GivenCells) -> pa.Schema:
    """``cell_schema`` with ``GIVEN_ID`` beside ``cell_id``."""
    kind = pa.int64() if given.ids.dtype.kind == "i" else pa.string()
    return cell_schema(types, embedding_dim).insert(1, pa.field(GIVEN_ID, kind, nullable=False))


def given_rows(
    given: GivenCells,
    records: NDArray[np.void],
    index: NDArray[np.intp],
    types: Sequence[str],
    mpp: tuple[float, float],
) -> Iterator[pa.Table]:
    """Row groups of the cells at ``index``; ``records`` are of ``given.embed`` and ``mpp`` is along x and y."""
    for first in range(0, len(index), ROW_GROUP):
        yield _rows(given, records, index[first : first + ROW_GROUP], types, mpp, first)


def _rows(
    given: GivenCells,
    records: NDArray[np.void],
    index: NDArray[np.intp],
    types: Sequence[str],
    mpp: tuple[float, float],
    first: int,
) -> pa.Table:
    found = records[index]
    outlined = ~np.isnan(found["radii"][:, 0])
    familiarity = found["familiarity"]
    cells = TileCells(
        np.ascontiguousarray(found["box"]),
        given.scores[index],
        found["probabilities"],
        found["embedding"],
        found["radii"] if outlined.any() else None,
        found["stains"],
        None if np.isnan(familiarity).all() else familiarity,
    )
    rows = cell_rows(cells, types, mpp, first)
    geometry = rows["geometry"].to_numpy().copy()
    if not outlined.all():
        geometry[~outlined] = polygons(box_points(cells.boxes[~outlined])).to_numpy(zero_copy_only=False)
    if given.areas is not None:
        areas = given.areas[index]
        known = ~shapely.is_missing(areas)
        geometry[known] = shapely.to_wkb(shapely.orient_polygons(areas[known]), byte_order=1)
    schema = given_schema(types, found["embedding"].shape[1], given)
    position = rows.schema.get_field_index("geometry")
    rows = rows.set_column(position, "geometry", pa.array(geometry, pa.binary()))
    return rows.add_column(1, GIVEN_ID, pa.array(given.ids[index], schema.field(GIVEN_ID).type)).cast(schema)
