"""Reading the cell table: what it knows, and what it says when it cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celldetr.cells.reader import batch_embeddings, numbers, open_table, read_cells, read_embeddings
from celldetr.cells.schema import embedding_matrix
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


def test_some_columns_can_be_read(run: Path) -> None:
    assert list(read_cells(run / "cells.parquet", ["x_px", "type"])) == ["x_px", "type"]
    assert read_cells(run, ["type"])["type"].cat.categories.tolist() == list(TYPES)
    with pytest.raises(InputError, match=r"has no column 'p_stroma'; did you mean 'p_stromal'"):
        read_cells(run, ["p_stroma"])
    with pytest.raises(InputError, match=r"has no column 'area'"):
        next(open_table(run).batches(["area"]))


def test_rows_are_taken_in_the_order_asked_for(run: Path) -> None:
    table, rows = open_table(run), np.array([299, 0, 71, 70, 0])
    found = table.take(rows, ["type", "embedding", "cell_id"])
    assert found.schema.names == ["type", "embedding", "cell_id"]
    assert found["cell_id"].to_pylist() == rows.tolist()
    assert found["type"].to_pylist() == random_cells(300)["type"].iloc[rows].tolist()
    assert np.array_equal(embedding_matrix(found["embedding"]), read_embeddings(run)[rows])
    assert len(table.take(rows[:0], ["cell_id"])) == 0


def test_what_is_not_a_table_says_so(tmp_path: Path, run: Path) -> None:
    for nowhere in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match="no such cell table"):
            open_table(nowhere)
    text = tmp_path / "text.parquet"
    text.write_text("not parquet")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        open_table(text)
    pq.write_table(pa.table({"a": [1]}), text)
    with pytest.raises(InputError, match="not a cell table, it has no column 'cell_id'"):
        open_table(text)
    (run / "run.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        open_table(run)


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "interrupted"}')
    with pytest.raises(InputError, match=r"not finished \(it is interrupted\); run predict again with `resume=True`"):
        read_cells(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_table_says_so(share: float, run: Path) -> None:
    path = run / "cells.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    for read in (read_cells, read_embeddings, open_table):
        with pytest.raises(InputError, match="not a readable Parquet file"):
            read(run)


def test_a_damaged_page_says_so(run: Path) -> None:
    path = run / "cells.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        list(open_table(run).batches(["cell_id", "x_px"]))


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("embedding", pa.array([[1.0]] * 300), "'embedding' must hold vectors, got list"),  # as pandas writes it
        ("score", None, "it has no column 'score'"),
    ],
)
def test_columns_of_another_kind_are_refused(run: Path, name: str, column: pa.Array | None, message: str) -> None:
    table = pq.read_table(run / "cells.parquet")
    at = table.schema.names.index(name)
    other = table.remove_column(at) if column is None else table.set_column(at, name, column)
    pq.write_table(other, run / "cells.parquet")
    with pytest.raises(InputError, match=message):
        read_cells(run)
