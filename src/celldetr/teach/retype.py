"""Type finished cell tables again by a head: columns beside the old ones, row group by row group.

``taught_type``, ``taught_type_score`` (its probability) and ``taught_p_NAME`` (of each type) are to the head what
``type``, ``type_score`` and ``p_NAME`` are to the model. They are put behind the other columns; those of an earlier
head are replaced. All else stays as it is, row groups too, and the new file takes the old one's place when it is whole.
Clusters, indices and labels are of cells and embeddings, so they still fit: the table keeps its stamp
(``cells.clusters.table_stamp``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from celldetr.cells.clusters import STAMP, table_stamp
from celldetr.cells.export import FORMATS, write_format
from celldetr.cells.reader import open_table
from celldetr.cells.schema import (
    PROVENANCE,
    TAUGHT,
    TAUGHT_P,
    TAUGHT_SCORE,
    TAUGHT_TYPE,
    embedding_matrix,
    provenance_of,
)
from celldetr.errors import InputError
from celldetr.io.lock import RunLock
from celldetr.io.parquet import parquet_errors
from celldetr.progress import Progress
from celldetr.search.collection import SlideCells, Sources, find_cells, model_of, unit
from celldetr.slide.table_writer import write_rows
from celldetr.teach.features import with_columns
from celldetr.teach.head import LinearHead
from celldetr.teach.head_file import HeadCard, check_fits, load_head


@dataclass(frozen=True)
class Retyped:
    """What ``retype`` did: slides that were typed, those that this head had typed already, cells of each type."""

    typed: int
    kept: int
    counts: dict[str, int]


def retype(cells: Sources, head: Path | str, *, overwrite: bool = False, progress: Progress | None = None) -> Retyped:
    """Type the cells of finished slides by a head, and write exports that lie beside them again.

    Args:
        cells: ``cells.parquet`` files, folders of results, or folders of these (a cohort).
        head: folder of a saved head.
        overwrite: replace the types of another head.
        progress: called with the number of cells done, and of all.

    Raises:
        InputError: no cells, no head, embeddings of another model than the head's, types of another head, or a table
            that is in use or cannot be written. No table has been changed then, unless the disk is full.
    """
    learned, card = load_head(head)
    collection = find_cells(cells, clusters=False)
    for slide in collection.slides:
        _check(slide, card, overwrite)
    counts = np.zeros(len(card.types), np.int64)
    typed = done = 0
    for slide in collection.slides:
        with RunLock(slide.table.path.parent):
            if not is_typed_by(slide.table.path, card):
                retype_table(slide.table.path, learned, card)
                typed += 1
                for name, exporter in FORMATS.items():
                    if (slide.table.path.parent / exporter.file_name).exists():
                        write_format(slide.table.path.parent, name, overwrite=True)
        names = open_table(slide.table.path, clusters=False).read([TAUGHT_TYPE])[TAUGHT_TYPE].combine_chunks()
        for value in names.value_counts().to_pylist():
            counts[card.names.index(value["values"])] += value["counts"]
        done += slide.table.count
        if progress:
            progress(done, collection.count)
    by_name = dict(zip(card.names, counts.tolist(), strict=True))
    return Retyped(typed, len(collection.slides) - typed, by_name)


def retype_table(path: Path, head: LinearHead, card: HeadCard) -> None:
    """Type the cells of one table, whose folder the caller holds. Raises InputError: it does not fit the head."""
    slide = SlideCells(path.parent.name, open_table(path, clusters=False), table_stamp(path))
    _check(slide, card, overwrite=True)
    with parquet_errors(path), pq.ParquetFile(path, memory_map=True) as file:
        old = file.schema_arrow
        kept = [field for field in old if not field.name.startswith(TAUGHT)]
        about = json.dumps(provenance_of(old) | {"head": _identity(card)}, sort_keys=True)
        metadata = (old.metadata or {}) | {PROVENANCE: about.encode(), STAMP: slide.stamp.encode()}
        schema = pa.schema([*kept, *_fields(card.names)], metadata=metadata)
        write_rows(path, schema, _groups(file, [field.name for field in kept], head, card, schema))


def is_typed_by(path: Path, card: HeadCard) -> bool:
    """Whether a table has the types of this very head."""
    return open_table(path, clusters=False).run.get("head") == _identity(card)


def _identity(card: HeadCard) -> dict[str, Any]:
    return {"sha256": card.sha256, "types": list(card.names), "colours": [kind.colour for kind in card.types]}


def _check(slide: SlideCells, card: HeadCard, overwrite: bool) -> None:
    table = slide.table
    check_fits(card, table.path, model_of(table), table.embedding_dim)
    for name in card.columns:
        if name not in table.columns:
            raise InputError(f"{table.path}: has no column {name!r}, which the head looks at; run predict again")
    if TAUGHT_TYPE in table.columns and not (overwrite or is_typed_by(table.path, card)):
        raise InputError(f"{table.path}: is typed by another head; pass `overwrite=True` to replace its types")


def _fields(names: Sequence[str]) -> list[pa.Field]:
    kinds = {TAUGHT_TYPE: pa.dictionary(pa.int32(), pa.string()), TAUGHT_SCORE: pa.float32()}
    kinds |= {f"{TAUGHT_P}{name}": pa.float32() for name in names}
    return [pa.field(name, kind, nullable=False) for name, kind in kinds.items()]


def _groups(
    file: pq.ParquetFile, kept: Sequence[str], head: LinearHead, card: HeadCard, schema: pa.Schema
) -> Iterator[pa.Table]:
    for group in range(file.metadata.num_row_groups):
        rows = file.read_row_group(group, columns=list(kept))
        vectors = unit(embedding_matrix(rows["embedding"]).astype(np.float32))
        found = head.probabilities(with_columns(vectors, rows, card.columns))
        best = found.argmax(1).astype(np.int32)
        columns = [rows[name] for name in kept]
        columns.append(pa.DictionaryArray.from_arrays(pa.array(best), pa.array(card.names, pa.string())))
        columns.append(pa.array(found[np.arange(len(best)), best]))
        columns += [pa.array(np.ascontiguousarray(found[:, k])) for k in range(len(card.names))]
        yield pa.Table.from_arrays(columns, schema=schema)
