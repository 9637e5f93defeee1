"""The cell table: its columns and metadata; ``celldetr.cells.rows`` makes rows of cells.

One row a cell. It is GeoParquet 1.1, so that GIS tools and geopandas open it as polygons, and an ordinary Parquet
file to everyone else. ``celldetr`` in the file's metadata says which slide, model and resolution it is from, and
``table_version`` there which columns and which order to expect.

docs/reference/outputs.md says what each column means. ``cell_id`` counts rows from 0; ``slide.row_order`` says which
order they are in. It is the same whenever the run is repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

CELLS = "cells.parquet"
RUN = "run.json"  # record of the run, beside it
PROVENANCE = b"celldetr"  # key of the file's metadata
VERSION = 2  # of the table; 1, in 0.1.0, has no measurements, and its rows are in the order of tiles

BOX = ("x_px", "y_px", "w_px", "h_px")
SHAPE = ("area_um2", "perimeter_um", "major_um", "minor_um", "orientation", "eccentricity", "solidity")
STAIN = ("haematoxylin_mean", "haematoxylin_sd", "eosin_mean", "eosin_sd")
MEASURED = (*SHAPE, *STAIN)  # null where there is no outline, or nothing was measured
FAMILIARITY = "familiarity"  # null of models that do not know
NULLABLE = (FAMILIARITY, *MEASURED)  # new in version 2
TAUGHT = "taught_"  # begins the names of columns that a head of the user's own has added (``celldetr retype``)
TAUGHT_TYPE, TAUGHT_SCORE, TAUGHT_P = f"{TAUGHT}type", f"{TAUGHT}type_score", f"{TAUGHT}p_"
REQUIRED = ("cell_id", *BOX, "x_um", "y_um", "score", "type", "type_score", "embedding")


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
        **dict.fromkeys(NULLABLE, pa.float32()),
        "embedding": pa.list_(pa.float16(), embedding_dim),
        "geometry": pa.binary(),
    }
    return pa.schema([pa.field(name, kind, nullable=name in NULLABLE) for name, kind in columns.items()])


def types_of(schema: pa.Schema) -> tuple[str, ...]:
    """Names of the K types of a cell table, in the model's order."""
    return tuple(name[2:] for name in schema.names if name.startswith("p_"))


def taught_types_of(names: Iterable[str]) -> tuple[str, ...]:
    """Names of the types that a head has given cells, in its order, from the ``names`` of all columns."""
    return tuple(name.removeprefix(TAUGHT_P) for name in names if name.startswith(TAUGHT_P))


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


def table_metadata(
    provenance: Mapping[str, Any], bounds: tuple[float, float, float, float] | None
) -> dict[bytes, bytes]:
    """Metadata of the file: GeoParquet 1.1.0 with the xyxy ``bounds`` of all boxes and outlines, and where the cells
    are from."""
    # crs null: coordinates are pixels of an image, which no coordinate reference system knows.
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": [], "crs": None}
    if bounds is not None:
        column |= {"geometry_types": ["Polygon"], "orientation": "counterclockwise", "bbox": list(bounds)}
    about = {**provenance, "table_version": VERSION}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return {b"geo": json.dumps(geo).encode(), PROVENANCE: json.dumps(about, sort_keys=True).encode()}


def provenance_of(schema: pa.Schema) -> dict[str, Any]:
    """Metadata of a table about its run."""
    values: dict[str, Any] = json.loads((schema.metadata or {}).get(PROVENANCE, b"{}"))
    return values


def version_of(schema: pa.Schema) -> int:
    """Version of a cell table; see ``VERSION``."""
    version: int = provenance_of(schema).get("table_version", 1)
    return version


def embedding_matrix(column: pa.ChunkedArray) -> NDArray[np.float16]:
    """An ``embedding`` column -> (N, d) float16."""
    out = np.empty((len(column), column.type.list_size), dtype=np.float16)
    start = 0
    for chunk in column.chunks:
        out[start : start + len(chunk)] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, out.shape[1])
        start += len(chunk)
    return out


def table_to_frame(table: pa.Table, types: Sequence[str], taught: Sequence[str] = ()) -> pd.DataFrame:
    """The cell table, or some columns of it, as a pandas DataFrame.

    ``type`` is categorical over ``types``, ``taught_type`` over ``taught``; ``embedding`` holds (d,) float16 arrays;
    ``geometry`` is WKB, which ``geopandas.GeoSeries.from_wkb`` reads. The file's ``celldetr`` metadata is in
    ``frame.attrs["celldetr"]``.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table[name]
        if name in ("type", TAUGHT_TYPE):
            names = types if name == "type" else taught
            codes = type_codes(column, names).fill_null(-1).to_numpy()
            columns[name] = pd.Categorical.from_codes(codes, categories=pd.Index(names))
        elif name == "embedding":
            columns[name] = pd.Series(list(embedding_matrix(column)), dtype=object)
        elif name == "geometry":
            columns[name] = pd.Series(column.to_pylist(), dtype=object)
        else:
            columns[name] = column.to_numpy()
    frame = pd.DataFrame(columns)
    frame.attrs["celldetr"] = provenance_of(table.schema)
    return frame
