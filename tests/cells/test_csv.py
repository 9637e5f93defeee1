"""CSV as pandas reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from celldetr.cells.export import export_cells
from helpers.cell_tables import random_cells, random_embeddings, write_run


def test_a_row_a_cell(run: Path) -> None:
    cells = random_cells(300)
    read = pd.read_csv(export_cells(run, "csv"))
    assert read.columns.tolist() == ["cell_id", "name", *cells.columns[1:]]
    assert read["name"].tolist() == [f"slide-1:{number}" for number in range(300)]
    assert read["type"].tolist() == cells["type"].tolist()
    assert read["cell_id"].tolist() == cells["cell_id"].tolist()
    for name in cells.columns.drop("type"):
        assert np.allclose(read[name], cells[name], rtol=1e-6, atol=0.00051), name


def test_embeddings_on_request_and_gzip_by_name(run: Path) -> None:
    out = export_cells(run, "csv", run / "cells.csv.gz", embeddings=True)
    assert out.read_bytes()[:2] == b"\x1f\x8b"
    read = pd.read_csv(out)
    expected = random_embeddings(random_cells(300))
    assert read.columns[-8:].tolist() == [f"e{i}" for i in range(8)]
    # Printed in full: back in float16 not a bit is lost.
    assert np.array_equal(read.iloc[:, -8:].to_numpy().astype(np.float16), expected)


def test_names_with_commas_and_quotes_survive(tmp_path: Path) -> None:
    types = ('a, "b"', "line\nbreak")
    cells = random_cells(12, types)
    read = pd.read_csv(export_cells(write_run(tmp_path / "s", cells, random_embeddings(cells, types)), "csv"))
    assert read["type"].tolist() == cells["type"].tolist()
    assert 'p_a, "b"' in read.columns


def test_no_cells_give_a_header(empty_run: Path) -> None:
    read = pd.read_csv(export_cells(empty_run, "csv"))
    assert read.columns.tolist() == ["cell_id", "name", *random_cells(0).columns[1:]]
    assert len(read) == 0
