"""Cells become rows of the cell table (``celldetr.cells.schema``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from celldetr.cells.schema import FAMILIARITY, SHAPE, STAIN, cell_schema
from celldetr.measure import shapes
from celldetr.outlines import outline_points

if TYPE_CHECKING:
    from celldetr.model.output import TileCells

_WKB_POLYGON = 3


def box_points(boxes: NDArray[np.floating]) -> NDArray[np.floating]:
    """(N, 4) xyxy -> (N, 4, 2) corners, counterclockwise in (x, y)."""
    return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)


def polygons(points: NDArray[np.floating]) -> pa.BinaryArray:
    """(N, M, 2) vertices (x, y) -> N WKB polygons of one closed ring (OGC 06-103r4, 8.2)."""
    count, vertices = points.shape[:2]
    kind = [("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("xy", "<f8", (vertices + 1, 2))]
    records = np.zeros(count, dtype=kind)
    records["order"], records["kind"], records["rings"], records["points"] = 1, _WKB_POLYGON, 1, vertices + 1
    records["xy"][:, :-1], records["xy"][:, -1] = points, points[:, 0]
    offsets = np.arange(count + 1, dtype=np.int32) * records.dtype.itemsize
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(records)])


def cell_rows(cells: TileCells, types: Sequence[str], mpp: tuple[float, float], first: int = 0) -> pa.Table:
    """Rows of cells with boxes in level-0 pixels, numbered from ``first``; ``mpp`` along x and y."""
    boxes = cells.boxes
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    probabilities = np.ascontiguousarray(cells.probabilities, dtype=np.float32)
    best = probabilities.argmax(1).astype(np.int32)
    dim = cells.embeddings.shape[1]
    embeddings = np.ascontiguousarray(cells.embeddings, dtype=np.float16)
    drawn = None if cells.radii is None else outline_points(boxes, cells.radii)
    columns: dict[str, Any] = {
        "cell_id": np.arange(first, first + len(boxes)),
        "x_px": x,
        "y_px": y,
        "w_px": (boxes[:, 2] - boxes[:, 0]).astype(np.float32),
        "h_px": (boxes[:, 3] - boxes[:, 1]).astype(np.float32),
        "x_um": x * mpp[0],
        "y_um": y * mpp[1],
        "score": cells.scores.astype(np.float32),
        "type": pa.DictionaryArray.from_arrays(pa.array(best), pa.array(types, pa.string())),
        "type_score": np.take_along_axis(probabilities, best[:, None], 1)[:, 0],
        **{f"p_{name}": np.ascontiguousarray(probabilities[:, k]) for k, name in enumerate(types)},
        **_measured((FAMILIARITY,), None if cells.familiarity is None else cells.familiarity[:, None], len(boxes)),
        # A box has no shape of a nucleus: its ellipse would have a solidity of 1 and lie along an axis.
        **_measured(SHAPE, None if drawn is None else shapes(drawn * np.array(mpp)), len(boxes)),
        **_measured(STAIN, cells.stains, len(boxes)),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1), pa.float16()), dim),
        "geometry": polygons(box_points(boxes) if drawn is None else drawn),
    }
    return pa.table(columns, schema=cell_schema(types, dim))


def _measured(names: Sequence[str], values: NDArray[np.floating] | None, count: int) -> dict[str, pa.Array]:
    """Columns of (N, len(names)) values; null where they are NaN, or there are none."""
    if values is None:
        return {name: pa.nulls(count, pa.float32()) for name in names}
    single = values.astype(np.float32)
    return {name: pa.array(single[:, i].copy(), from_pandas=True) for i, name in enumerate(names)}
