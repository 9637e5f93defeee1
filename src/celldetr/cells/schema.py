"""The cell table: its columns, and how cells become rows of it.

One row a cell. It is GeoParquet 1.1, so that GIS tools and geopandas open it as polygons, and an ordinary Parquet
file to everyone else. ``celldetr`` in the file's metadata says which slide, model and resolution it is from.

docs/reference/outputs.md says what each column means. ``cell_id`` counts tile by tile in reading order, in a tile by y,
then x, so that it is the same whenever the run is repeated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from celldetr.outlines import drawn_outlines

if TYPE_CHECKING:
    import pandas as pd

    from celldetr.model.output import TileCells

CELLS = "cells.parquet"
RUN = "run.json"  # record of the run, beside it
PROVENANCE = b"celldetr"  # key of the file's metadata

BOX = ("x_px", "y_px", "w_px", "h_px")
REQUIRED = ("cell_id", *BOX, "x_um", "y_um", "score", "type", "type_score", "embedding")

_WKB_POLYGON = 3


def cell_schema(types: Sequence[str], embedding_dim: int) -> pa.Schema:
    """Columns of the cell table for a model with K types and embeddings of length d."""
    columns = {
        "cell_id": pa.int64(),
        **dict.fromkeys(("x_px", "y_px"), pa.float64()),
        **dict.fromkeys(("w_px", "h_px"), pa.float32()),
        **dict.fromkeys(("x_um", "y_um"), pa.float64()),
        "score": pa.float32(),
        "type": pa.dictionary(pa.int32(), pa.string()),
        "type_score": pa.float32(),
        **{f"p_{name}": pa.float32() for name in types},
        "embedding": pa.list_(pa.float16(), embedding_dim),
        "geometry": pa.binary(),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def types_of(schema: pa.Schema) -> tuple[str, ...]:
    """Names of the K types of a cell table, in the model's order."""
    return tuple(name[2:] for name in schema.names if name.startswith("p_"))


def type_codes(column: pa.Array | pa.ChunkedArray, types: Sequence[str]) -> pa.Array | pa.ChunkedArray:
    """(N,) int32 index into ``types`` of each name in a ``type`` column; null where it is none of them."""
    # Each row group has its own dictionary: its codes mean nothing outside it.
    return pc.index_in(column.cast(pa.string()), value_set=pa.array(types, pa.string()))


def check_columns(schema: pa.Schema) -> None:
    """Check that a file has the columns of a cell table."""
    for name in REQUIRED:
        if name not in schema.names:
            raise ValueError(f"it has no column {name!r}")
    kind = schema.field("embedding").type
    if not (pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)):
        raise ValueError(f"column 'embedding' must hold vectors, got {kind}")


def box_points(boxes: NDArray[np.floating]) -> NDArray[np.floating]:
    """(N, 4) xyxy -> (N, 4, 2) corners, counterclockwise in (x, y)."""
    return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)


def polygons(points: NDArray[np.floating]) -> pa.BinaryArray:
    """(N, M, 2) vertices (x, y) -> N WKB polygons of one closed ring (OGC 06-103r4, 8.2)."""
    count, vertices = points.shape[:2]
    kind = [("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("xy", "<f8", (vertices + 1, 2))]
    records = np.zeros(count, dtype=kind)
    records["order"], records["kind"], records["rings"], records["points"] = 1, _WKB_POLYGON, 1, vertices + 1
    records["xy"] = points[:, [*range(vertices), 0]]
    offsets = np.arange(count + 1, dtype=np.int32) * records.dtype.itemsize
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(records.tobytes())])


def _outlines(cells: TileCells) -> NDArray[np.floating]:
    """Vertices of outlines within their boxes, or the corners of the boxes where there are none."""
    boxes = cells.boxes
    if cells.radii is None:
        return box_points(boxes)
    return drawn_outlines(boxes, cells.radii)


def cell_rows(cells: TileCells, types: Sequence[str], mpp: tuple[float, float], first: int = 0) -> pa.Table:
    """Rows of cells with boxes in level-0 pixels, numbered from ``first``; ``mpp`` along x and y."""
    boxes = cells.boxes
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    probabilities = np.ascontiguousarray(cells.probabilities, dtype=np.float32)
    best = probabilities.argmax(1).astype(np.int32)
    dim = cells.embeddings.shape[1]
    embeddings = np.ascontiguousarray(cells.embeddings, dtype=np.float16)
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
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1), pa.float16()), dim),
        "geometry": polygons(_outlines(cells)),
    }
    return pa.table(columns, schema=cell_schema(types, dim))


def table_metadata(
    provenance: Mapping[str, Any], bounds: tuple[float, float, float, float] | None
) -> dict[bytes, bytes]:
    """Metadata of the file: GeoParquet 1.1.0 with the xyxy ``bounds`` of all boxes, and where the cells are from."""
    # crs null: coordinates are pixels of an image, which no coordinate reference system knows.
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": [], "crs": None}
    if bounds is not None:
        column |= {"geometry_types": ["Polygon"], "orientation": "counterclockwise", "bbox": list(bounds)}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return {b"geo": json.dumps(geo).encode(), PROVENANCE: json.dumps(provenance, sort_keys=True).encode()}


def provenance_of(schema: pa.Schema) -> dict[str, Any]:
    """Metadata of a table about its run."""
    values: dict[str, Any] = json.loads((schema.metadata or {}).get(PROVENANCE, b"{}"))
    return values


def embedding_matrix(column: pa.ChunkedArray) -> NDArray[np.float16]:
    """An ``embedding`` column -> (N, d) float16."""
    out = np.empty((len(column), column.type.list_size), dtype=np.float16)
    start = 0
    for chunk in column.chunks:
        out[start : start + len(chunk)] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, out.shape[1])
        start += len(chunk)
    return out


def table_to_frame(table: pa.Table, types: Sequence[str]) -> pd.DataFrame:
    """The cell table, or some columns of it, as a pandas DataFrame.

    ``type`` is categorical over ``types``; ``embedding`` holds (d,) float16 arrays; ``geometry`` is WKB, which
    ``geopandas.GeoSeries.from_wkb`` reads. The file's ``celldetr`` metadata is in ``frame.attrs["celldetr"]``.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table[name]
        if name == "type":
            columns[name] = pd.Categorical.from_codes(
                type_codes(column, types).fill_null(-1).to_numpy(), categories=pd.Index(types)
            )
        elif name == "embedding":
            columns[name] = pd.Series(list(embedding_matrix(column)), dtype=object)
        elif name == "geometry":
            columns[name] = pd.Series(column.to_pylist(), dtype=object)
        else:
            columns[name] = column.to_numpy()
    frame = pd.DataFrame(columns)
    frame.attrs["celldetr"] = provenance_of(table.schema)
    return frame
