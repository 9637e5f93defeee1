"""The cell table of a slide while it is written: in parts, one a row of tiles, joined when the slide is done.

A part holds the cells of one band (row) of tiles and appears under its name when it is whole, so what is on disk is
always the beginning of the table, and memory holds one band. ``finish`` streams the parts into ``cells.parquet``;
only there do cells get their ``cell_id``, which therefore does not depend on how often the run was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.cells.schema import CELLS, cell_schema, number_rows, table_metadata
from celldetr.io.files import replacing
from celldetr.io.parquet import parquet_errors

PARTS = "parts"
PART_FILES = "part-*.parquet"
ATTEMPTS = "finish-*.tmp/"  # folders in PARTS, in each of which a worker of a cluster finishes the slide
ROW_GROUP = 32_768  # rows; also what joining holds in memory, beside one part
_PART_KEY = b"celldetr.part"


@dataclass(frozen=True)
class FailedTile:
    """A tile of which some could not be decoded.

    Attributes:
        row, column: of the grid.
        x_px, y_px, w_px, h_px: what is lost of the part that it owns, level-0 pixels from the slide's top left corner.
        mm2: area of that.
        reason: what the file's decoder said.
    """

    row: int
    column: int
    x_px: float
    y_px: float
    w_px: float
    h_px: float
    mm2: float
    reason: str


@dataclass(frozen=True)
class PartInfo:
    """What is known about a part without reading its rows.

    Attributes:
        band: row of the grid.
        rows: number of cells.
        tiles: number of its tiles, those that are damaged too.
        mm2: area that these own.
        counts: cells by type.
        bounds: xyxy of their boxes in level-0 pixels, None if there are none.
        outside: (x, y) level-0 pixels of cells that are not in the table because they lie outside a ROI, but that can
            decide about cells of the next band.
        failed: tiles that could not be decoded, or not all of them.
    """

    band: int
    rows: int
    tiles: int
    mm2: float
    counts: dict[str, int]
    bounds: tuple[float, float, float, float] | None
    outside: tuple[tuple[float, float], ...] = ()
    failed: tuple[FailedTile, ...] = ()

    @property
    def is_lost(self) -> bool:
        """Whether nothing of it could be decoded."""
        return bool(self.failed) and sum(tile.mm2 for tile in self.failed) > 0.999999 * self.mm2

    @classmethod
    def from_json(cls, text: bytes) -> PartInfo:
        """The inverse of ``to_json``. Raises KeyError, TypeError or ValueError on anything else."""
        values = json.loads(text)
        bounds = values["bounds"]
        values["bounds"] = None if bounds is None else tuple(bounds)
        values["outside"] = tuple((x, y) for x, y in values["outside"])
        values["failed"] = tuple(FailedTile(**tile) for tile in values["failed"])
        return cls(**values)

    def to_json(self) -> bytes:
        """As a part's metadata."""
        return json.dumps(asdict(self)).encode()


class PartStore:
    """The parts of one slide's table, in the ``directory`` of its output."""

    def __init__(self, directory: Path, types: Sequence[str], embedding_dim: int) -> None:
        self._directory = directory
        self._parts = directory / PARTS
        self._schema = cell_schema(types, embedding_dim)

    def path(self, band: int) -> Path:
        """Where the part of a band is or will be."""
        return self._parts / f"part-{band:06d}.parquet"

    def write(self, rows: pa.Table, info: PartInfo) -> None:
        """Write the part of a band."""
        rows = rows.replace_schema_metadata({_PART_KEY: info.to_json()})
        with replacing(self.path(info.band)) as temporary:
            self._parts.mkdir(exist_ok=True)
            pq.write_table(rows, temporary, compression="zstd", use_dictionary=["type"])

    def infos(self, bands: Sequence[int]) -> list[PartInfo]:
        """The parts that exist of the beginning of ``bands``; the first that is missing or damaged ends it."""
        found = []
        for band in bands:
            try:
                metadata = pq.read_schema(self.path(band)).metadata or {}
                found.append(PartInfo.from_json(metadata[_PART_KEY]))
            except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
                break
        return found

    def centres(self, band: int) -> NDArray[np.float64]:
        """(N, 2) centres of the cells that a band kept, level-0 pixels: those of its part, and those outside a ROI."""
        with parquet_errors(self.path(band)):
            table = pq.read_table(self.path(band), columns=["x_px", "y_px"])
        outside = json.loads(table.schema.metadata[_PART_KEY])["outside"]
        inside = np.stack([table["x_px"].to_numpy(), table["y_px"].to_numpy()], axis=1)
        return np.concatenate([inside, np.array(outside, dtype=np.float64).reshape(-1, 2)])

    def finish(self, infos: Sequence[PartInfo], provenance: Mapping[str, Any]) -> Path:
        """Join all parts, in order, into ``cells.parquet``, which appears when it is whole. The parts stay.

        Raises:
            InputError: the disk is full.
        """
        bounds = joint_bounds(np.array([info.bounds for info in infos if info.bounds is not None]))
        metadata = table_metadata(provenance, bounds)
        schema = self._schema.with_metadata(metadata)
        path = self._directory / CELLS
        with replacing(path) as temporary, _writer(temporary, schema) as writer:
            for group in _row_groups(self._numbered(infos), self._schema):
                writer.write_table(group.replace_schema_metadata(metadata), row_group_size=ROW_GROUP)
        return path

    def _numbered(self, infos: Sequence[PartInfo]) -> Iterator[pa.Table]:
        start = 0
        for info in infos:
            with parquet_errors(self.path(info.band)):
                rows = pq.read_table(self.path(info.band)).replace_schema_metadata(None)
            yield number_rows(rows, start)
            start += info.rows


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # Statistics of embeddings and polygons are as large as they are useless.
    plain = [name for name in schema.names if name not in ("embedding", "geometry")]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["type"], write_statistics=plain)


def _row_groups(tables: Iterator[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Cut a stream of tables into groups of ``ROW_GROUP`` rows, the last one smaller (but one at least)."""
    held = schema.empty_table()
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
