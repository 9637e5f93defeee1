"""Some columns of some cells, held in memory and drawn as a cell table is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Self

import pyarrow as pa
from numpy.typing import NDArray

from celldetr.cells.reader import BATCH_ROWS, CellTable


@dataclass(frozen=True)
class HeldTable(CellTable):
    """A cell table whose columns are in ``cells``; no file is read."""

    cells: pa.Table = field(default_factory=lambda: pa.table({}))

    @classmethod
    def part(cls, table: CellTable, cells: pa.Table) -> Self:
        """Some cells of a table, with the columns that they have."""
        values = {each.name: getattr(table, each.name) for each in fields(CellTable)}
        values |= {"columns": tuple(cells.column_names), "count": len(cells)}
        return cls(**values, cells=cells)

    def batches(self, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """As of ``CellTable``."""
        yield from self.cells.select(list(columns)).to_batches(rows)

    def take(self, rows: NDArray, columns: Sequence[str]) -> pa.Table:
        """As of ``CellTable``."""
        return self.cells.select(list(columns)).take(pa.array(rows))
