"""Write the cell table of a slide, streamed in row groups of one size however the rows come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.io.files import replacing

ROW_GROUP = 32_768  # rows; also what is held in memory, beside one table


def write_table(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables of ``cell_rows`` one after the other into a file, which appears when it is whole."""
    # Statistics of embeddings and polygons are as large as they are useless.
    plain = [name for name in schema.names if name not in ("embedding", "geometry")]
    options = {"compression": "zstd", "use_dictionary": ["type"], "write_statistics": plain}
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as writer:
        for group in _row_groups(tables, schema):
            writer.write_table(group.replace_schema_metadata(schema.metadata), row_group_size=ROW_GROUP)


def _row_groups(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Cut a stream of tables into groups of ``ROW_GROUP`` rows, the last one smaller (but one at least)."""
    held = schema.remove_metadata().empty_table()
    written = False
    for table in tables:
        held = pa.concat_tables([held, table])
        while len(held) >= ROW_GROUP:
            yield held.slice(0, ROW_GROUP).combine_chunks()
            held, written = held.slice(ROW_GROUP), True
    if len(held) or not written:
        yield held.combine_chunks()


def joint_bounds(boxes: NDArray[np.floating]) -> tuple[float, float, float, float] | None:
    """xyxy that holds all boxes (N, 4); None if there are none."""
    if not len(boxes):
        return None
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
