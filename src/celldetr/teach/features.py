"""What a head sees of a cell: its embedding as a unit vector, as the search of similar cells does, and some columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from celldetr.cells.reader import numbers
from celldetr.cells.schema import STAIN
from celldetr.search.collection import Collection, Rows, SlideCells
from celldetr.teach.head import Features

COLUMNS = STAIN  # worth .01 of macro F1 on CoNSeP train; the size of the box is worth nothing beside the embedding
Blocks = Callable[[SlideCells], Iterator[tuple[int, NDArray[np.float32]]]]
"""A slide -> index of the first row and (n, d) unit vectors, block by block: from disk, or from memory."""

Units = Callable[[SlideCells, Rows], NDArray[np.float32]]
"""A slide and (n,) rows -> their (n, d) unit vectors."""


def columns_of(collection: Collection) -> tuple[str, ...]:
    """``COLUMNS``, or none where a table is older than they are."""
    old = any(name not in slide.table.columns for slide in collection.slides for name in COLUMNS)
    return () if old else COLUMNS


def feature_blocks(
    slide: SlideCells, columns: Sequence[str], vectors: Blocks = SlideCells.blocks
) -> Iterator[tuple[int, Features]]:
    """Index of the first row and (n, d + len(columns)) features, block by block."""
    beside = _columns(slide.table.read(list(columns)), columns) if columns else None
    for start, block in vectors(slide):
        yield start, block if beside is None else np.concatenate([block, beside[start : start + len(block)]], axis=1)


def feature_rows(slide: SlideCells, rows: Rows, columns: Sequence[str], units: Units) -> Features:
    """(n, d + len(columns)) features of some rows."""
    return with_columns(units(slide, rows), slide.table.take(rows, list(columns)) if columns else None, columns)


def with_columns(vectors: Features, table: pa.Table | None, columns: Sequence[str]) -> Features:
    """(n, d) unit vectors and the columns of the same cells -> (n, d + len(columns)) features."""
    return vectors if table is None or not columns else np.concatenate([vectors, _columns(table, columns)], axis=1)


def _columns(table: pa.Table, names: Sequence[str]) -> NDArray[np.float32]:
    """(n, len(names)); NaN where a value is missing."""
    return np.column_stack([numbers(table, name) for name in names]).astype(np.float32)
