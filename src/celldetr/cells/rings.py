"""The drawn border of each cell of a table: its outline, or its box."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from celldetr.cells.reader import CellTable, numbers
from celldetr.cells.schema import BOX

CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]], dtype=np.float64)  # of a box, in half sides
Ring = NDArray[np.float64]
"""(V, 2) points (x, y) in level-0 pixels; the last is the first."""


def ring_columns(table: CellTable) -> tuple[str, ...]:
    """Columns that ``rings`` reads."""
    return ("geometry",) if "geometry" in table.columns else BOX


def rings(cells: pa.RecordBatch | pa.Table) -> list[Ring]:
    """The border of each cell: of its ``geometry``, or, in a table without, of its box."""
    if "geometry" not in cells.schema.names:
        box = np.stack([numbers(cells, name) for name in BOX], axis=1)
        return list(box[:, None, :2] + CORNERS * box[:, None, 2:] / 2)
    borders = shapely.get_exterior_ring(shapely.from_wkb(cells.column("geometry").to_numpy(zero_copy_only=False)))
    ends = np.cumsum(shapely.get_num_coordinates(borders))
    return np.split(shapely.get_coordinates(borders), ends[:-1]) if len(ends) else []


def has_outlines(table: CellTable) -> bool:
    """Whether outlines are drawn of a table's cells, not boxes: the first cell stands for all."""
    return table.count > 0 and not is_box(rings(table.take(np.zeros(1, np.int64), ring_columns(table)))[0])


def is_box(ring: Ring) -> bool:
    """Whether it is a rectangle, not the outline of a nucleus."""
    return len(ring) == len(CORNERS)
