"""The cells of a slide for the page: packed arrays in the order of the table, outlines by square, one cell in full.

Centres and a column are 8 and 4 bytes a cell, so the page holds those of a whole slide, and colours and filters a
million cells without asking. Outlines are a hundred times that: the page asks for squares of ``SQUARE_UM``, and the
row groups that have cells there are read. In a table of version 2 these are few (``slide.row_order``).
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from celldetr.cells.clusters import CLUSTER
from celldetr.cells.palette import hex_colour
from celldetr.cells.reader import CellTable, by_cluster, by_taught, numbers
from celldetr.errors import InputError, near
from celldetr.io.parquet import parquet_errors
from celldetr.view.lru import Recent

SQUARE_UM = 512.0
HELD = 128 * 2**20  # bytes of outlines in memory
NO_NUMBERS = ("cell_id", "type", CLUSTER, "embedding", "geometry")


@dataclass(frozen=True)
class Outlines:
    """Polygons of n cells: ``ends`` (n,) is one past the last of each one's ``points`` (m, 2), float32 level-0 px."""

    ends: NDArray[np.int64]
    points: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """In memory."""
        return self.ends.nbytes + self.points.nbytes


class SlideTable:
    """The cells of one slide as the page gets them. Reading is safe from several threads."""

    def __init__(self, table: CellTable) -> None:
        self.table = table
        self.mpp = table.mpp_xy or (1.0, 1.0)
        self._outlines: Recent[Outlines] = Recent(HELD, lambda outlines: outlines.nbytes)
        self._lock = threading.Lock()

    def centres(self) -> NDArray[np.float32]:
        """(N, 2) centres, um."""
        with self._lock:
            return self._centres

    @cached_property
    def _centres(self) -> NDArray[np.float32]:
        out = np.empty((self.table.count, 2), np.float32)
        start = 0
        for batch in self.table.batches(("x_px", "y_px")):
            for axis, name in enumerate(("x_px", "y_px")):
                out[start : start + len(batch), axis] = numbers(batch, name) * self.mpp[axis]
            start += len(batch)
        return out

    @cached_property
    def columns(self) -> list[dict[str, Any]]:
        """What cells can be coloured and filtered by, as JSON values.

        A ``category`` has ``names`` and ``colours``; its array holds uint16 indices. A ``number`` has float32 values.
        """
        columns: list[dict[str, Any]] = [_category(table) for table in self._categories.values()]
        with parquet_errors(self.table.path):
            schema = pq.read_schema(self.table.path)
        numeric = [
            field.name for field in schema if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
        ]
        return columns + [{"name": name, "kind": "number"} for name in numeric if name not in NO_NUMBERS]

    @cached_property
    def _categories(self) -> dict[str, CellTable]:
        """Column -> the table whose types it holds; those that a head has taught come first, where there are any."""
        tables = [by_taught(self.table), *([self.table] if self.table.taught_types else [])]
        tables += [by_cluster(self.table)] if CLUSTER in self.table.columns and self.table.clusters else []
        return {table.type_column: table for table in tables}

    def column(self, name: str | None = None) -> bytes:
        """A column of ``columns``, by default the first, (N,) little-endian; a number that is missing is NaN.

        Raises:
            InputError: there is no such column.
        """
        kinds = {column["name"]: column["kind"] for column in self.columns}
        name = next(iter(kinds)) if name is None else name
        if name not in kinds:
            raise InputError(f"no column {name!r} to colour by; {near(name, kinds)}")
        parts = []
        for batch in self.table.batches((name,)):
            if kinds[name] == "number":
                parts.append(numbers(batch, name).astype("<f4").tobytes())
            else:
                parts.append(self._categories[name].type_codes(batch, name).astype("<u2").tobytes())
        return b"".join(parts)

    def square(self, column: int, row: int) -> bytes:
        """Outlines of the cells whose centres lie in one square of a grid, little-endian.

        Four-byte numbers: how many cells n, how many points m; then n rows of the table and n ends (uint32), then m
        points x, y (float32 um).
        """
        centres = self.centres()
        low = np.array([column, row]) * SQUARE_UM
        rows = np.flatnonzero(((centres >= low) & (centres < low + SQUARE_UM)).all(1))
        outlines = self.outlines(rows)
        points = outlines.points * np.array(self.mpp, np.float32)
        head = np.concatenate([[len(rows), len(points)], rows, outlines.ends]).astype("<u4")
        return head.tobytes() + points.astype("<f4").tobytes()

    def outlines(self, rows: NDArray[np.int64]) -> Outlines:
        """Outlines of (n,) sorted rows of the table."""
        ends, points = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.float32)]
        count = 0
        edges = self._group_edges
        for group in np.unique(np.searchsorted(edges, rows, side="right") - 1):
            mine = rows[(rows >= edges[group]) & (rows < edges[group + 1])] - edges[group]
            whole = self._outlines.get(int(group), lambda group=group: self._read_group(int(group)))  # type: ignore[misc]
            starts = np.concatenate([[0], whole.ends])[mine]
            lengths = whole.ends[mine] - starts
            last = np.cumsum(lengths)
            index = np.arange(last[-1]) + np.repeat(starts - (last - lengths), lengths)
            points.append(whole.points[index])
            ends.append(last + count)
            count += int(last[-1])
        return Outlines(np.concatenate(ends), np.concatenate(points))

    @cached_property
    def _group_edges(self) -> NDArray[np.int64]:
        """First row of each row group, and the number of rows."""
        with parquet_errors(self.table.path):
            metadata = pq.read_metadata(self.table.path)
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def _read_group(self, group: int) -> Outlines:
        ends, points = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.float32)]
        count = 0
        with parquet_errors(self.table.path), pq.ParquetFile(self.table.path, memory_map=True) as file:
            for batch in file.iter_batches(batch_size=16_384, row_groups=[group], columns=["geometry"]):
                polygons = shapely.from_wkb(
                    batch.column("geometry").to_numpy(zero_copy_only=False), on_invalid="ignore"
                )
                ends.append(count + np.cumsum(shapely.get_num_coordinates(polygons)))
                points.append(shapely.get_coordinates(polygons).astype(np.float32))
                count += len(points[-1])
        return Outlines(np.concatenate(ends), np.concatenate(points))

    def cell(self, row: int) -> dict[str, Any]:
        """All of one cell but its embedding, as JSON values; its ``outline`` in um from its centre.

        Raises:
            InputError: there is no such row.
        """
        if not 0 <= row < self.table.count:
            raise InputError(f"no row {row}; the table has {self.table.count:,}")
        names = [name for name in self.table.columns if name not in ("embedding", "geometry")]
        values = {name: plain(value[0]) for name, value in self.table.take(np.array([row]), names).to_pydict().items()}
        centre = np.array([values["x_px"], values["y_px"]])
        outline = (self.outlines(np.array([row])).points - centre) * np.array(self.mpp)
        probabilities = {name: values.pop(f"p_{name}") for name in self.table.types}
        return {
            "row": row,
            "name": f"{self.table.name}:{values['cell_id']}",
            "x": float(centre[0] * self.mpp[0]),
            "y": float(centre[1] * self.mpp[1]),
            "values": values,
            "probabilities": probabilities,
            "outline": np.round(outline, 3).tolist(),
        }


def plain(value: Any) -> Any:
    """A value of a table as JSON has it: what is no number is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _category(table: CellTable) -> dict[str, Any]:
    colours = [hex_colour(colour) for colour in table.colours.values()]
    return {"name": table.type_column, "kind": "category", "names": list(table.types), "colours": colours}
