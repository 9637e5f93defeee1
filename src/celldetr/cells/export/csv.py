"""CSV for spreadsheets, R and everything else: the cell table without the geometry."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from celldetr.cells.reader import CellTable, batch_embeddings
from celldetr.io.files import binary_stream

NAME = "name"  # of a cell, among those of all slides

# Of float64 columns, which are positions: a nanometre, and half the digits.
DECIMALS = 3


def _flat(table: CellTable, batch: pa.RecordBatch, columns: list[str], with_embeddings: bool) -> pa.RecordBatch:
    """The batch as columns that a text file can hold."""
    arrays = {name: batch.column(name) for name in columns}
    for name, array in arrays.items():
        if pa.types.is_float64(array.type):
            arrays[name] = pc.round(array, DECIMALS)
        elif pa.types.is_dictionary(array.type):
            arrays[name] = array.cast(pa.string())
    if with_embeddings:
        matrix = batch_embeddings(batch)
        arrays |= {f"e{i}": pa.array(matrix[:, i]) for i in range(table.embedding_dim)}
    names = pa.array(table.cell_names(batch.column("cell_id").to_pylist()), pa.string())
    return pa.RecordBatch.from_pydict({"cell_id": arrays.pop("cell_id"), NAME: names, **arrays})


def write_csv(table: CellTable, out: Path, *, embeddings: bool = False) -> None:
    """Write the cells as CSV (UTF-8, comma, header line), compressed if ``out`` ends in ``.gz``.

    The second column, ``name``, is ``slide:cell_id``. ``embeddings`` adds columns ``e0`` to ``e{d-1}``, which multiply
    the size of the file by ten or more.
    """
    columns = [name for name in table.columns if name not in ("geometry", "embedding")]
    read = [*columns, "embedding"] if embeddings else columns
    header = [
        "cell_id",
        NAME,
        *(name for name in columns if name != "cell_id"),
        *(f"e{i}" for i in range(table.embedding_dim) if embeddings),
    ]
    options = pa_csv.WriteOptions(include_header=False)
    with binary_stream(out) as stream:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(header)
        stream.write(text.getvalue().encode())
        for batch in table.batches(read):
            pa_csv.write_csv(_flat(table, batch, columns, embeddings), stream, options)
