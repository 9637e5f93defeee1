"""Write the cell table of a slide, streamed row group by row group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.cells.rows import cell_rows
from celldetr.io.files import replacing
from celldetr.model.output import TileCells
from celldetr.outlines import CHUNK, outline_points
from celldetr.slide.row_order import row_groups


def write_table(
    path: Path, schema: pa.Schema, bands: Iterable[TileCells], types: Sequence[str], mpp: tuple[float, float]
) -> None:
    """Write the cells of bands, from top to bottom, into a file, which appears when it is whole.

    ``schema`` is that of ``cell_schema``, with the file's metadata; ``types`` and ``mpp`` are as of ``cell_rows``.
    """

    def rows() -> Iterator[pa.Table]:
        count = 0
        for cells in row_groups(bands):
            yield cell_rows(cells, types, mpp, count)
            count += len(cells)

    write_rows(path, schema, rows())


def write_rows(path: Path, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Write row groups of a cell table into a file, which appears when it is whole; ``schema`` has its metadata."""
    # Statistics of embeddings and polygons are as large as they are useless.
    plain = [name for name in schema.names if name not in ("embedding", "geometry")]
    options = {"compression": "zstd", "use_dictionary": ["type"], "write_statistics": plain}
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as writer:
        count = 0
        for rows in groups:
            writer.write_table(rows.replace_schema_metadata(schema.metadata), row_group_size=len(rows))
            count += len(rows)
        if not count:
            writer.write_table(schema.empty_table())


def joint_bounds(
    boxes: NDArray[np.floating], radii: NDArray[np.floating] | None = None
) -> tuple[float, float, float, float] | None:
    """xyxy that holds all boxes (N, 4) and all outlines (N, ``RADII``), NaN where there is none; None of no boxes."""
    if not len(boxes):
        return None
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    for start in range(0, len(boxes), CHUNK):
        if radii is None:
            break
        points = outline_points(boxes[start : start + CHUNK], radii[start : start + CHUNK])
        low, high = np.fmin(low, np.fmin.reduce(points, (0, 1))), np.fmax(high, np.fmax.reduce(points, (0, 1)))
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
