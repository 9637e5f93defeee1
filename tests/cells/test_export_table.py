"""Opening the cell table: what it knows, and what it says when it cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celldetr.cells.reader import batch_embeddings, numbers, open_table
from celldetr.errors import InputError
from helpers.cell_tables import TYPES, random_cells, random_embeddings, write_run


def test_a_run_and_its_table_open_alike(run: Path) -> None:
    table = open_table(run)
    assert table == open_table(run / "cells.parquet")
    assert (table.slide, table.mpp, table.types, table.count, table.embedding_dim) == (
        "slide-1.svs",
        0.5,
        TYPES,
        300,
        8,
    )


def test_batches_hold_every_cell_in_order(run: Path) -> None:
    expected = random_cells(300)
    batches = list(open_table(run).batches(["y_px", "embedding", "cell_id"], rows=64))
    assert max(len(batch) for batch in batches) <= 64
    assert [batch.schema.names for batch in batches] == [["y_px", "embedding", "cell_id"]] * len(batches)
    assert np.array_equal(np.concatenate([numbers(batch, "y_px") for batch in batches]), expected["y_px"])
    found = np.concatenate([batch_embeddings(batch) for batch in batches])
    assert np.array_equal(found, random_embeddings(expected).astype(np.float32))


def test_type_codes_survive_dictionaries_that_change_between_row_groups(tmp_path: Path) -> None:
    cells = random_cells(90).sort_values("type")  # each row group has other types, hence another dictionary
    run = write_run(tmp_path / "s", cells, random_embeddings(cells), row_group=20)
    table = open_table(run)
    names = [table.types[code] for batch in table.batches(["type"]) for code in table.type_codes(batch)]
    assert names == cells["type"].tolist()


def test_a_type_without_probability_is_refused(tmp_path: Path) -> None:
    cells = random_cells(5)
    cells.loc[2, "type"] = "martian"
    table = open_table(write_run(tmp_path / "s", cells, random_embeddings(random_cells(5))))
    with pytest.raises(InputError, match="'martian'"):
        [table.type_codes(batch) for batch in table.batches(["type"])]


def test_slide_name_without_provenance_is_the_folder(run: Path) -> None:
    (run / "run.json").unlink()
    table = open_table(run)
    assert (table.slide, table.mpp, table.run) == ("slide-1", None, {})


def test_what_is_not_a_table_says_so(tmp_path: Path, run: Path) -> None:
    with pytest.raises(InputError, match="no such cell table"):
        open_table(tmp_path / "nowhere")
    text = tmp_path / "text.parquet"
    text.write_text("not parquet")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        open_table(text)
    pq.write_table(pa.table({"a": [1]}), text)
    with pytest.raises(InputError, match="no column 'cell_id'"):
        open_table(text)
    (run / "run.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        open_table(run)


def test_a_truncated_table_says_so(run: Path) -> None:
    path = run / "cells.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        open_table(run)
