"""``cells.parquet`` from a stranger: names in it never choose where we write."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celldetr.cells.export import FORMATS, export_cells
from celldetr.cells.schema import CELLS, RUN
from helpers.cell_tables import random_cells, random_embeddings, write_run
from helpers.hostile import nothing_written, refused

NAMES = [
    "../../x",
    "/etc/x",
    "a/b",
    "..",
    "",
    ".",
    "a\nb",
    "\x1b[31m",
    "x" * 500,
    "=1+1",
    "__proto__",
    "X",
    "obs",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cells = random_cells(40)
    return write_run(tmp_path_factory.mktemp("tables") / "run", cells, random_embeddings(cells))


@pytest.mark.parametrize("name", NAMES)
def test_names_of_types_write_nowhere_else(name: str, run: Path, tmp_path: Path) -> None:
    table = pq.read_table(run / CELLS)
    first = next(column for column in table.schema.names if column.startswith("p_"))
    text = table["type"].cast(pa.string()).to_pylist()
    renamed = table.rename_columns([f"p_{name}" if column == first else column for column in table.schema.names])
    renamed = renamed.set_column(
        renamed.schema.names.index("type"), "type", pa.array([name if kind == first[2:] else kind for kind in text])
    )
    inside = tmp_path / "deep" / "inside" / "run"
    inside.mkdir(parents=True)
    pq.write_table(renamed, inside / CELLS)
    (inside / RUN).write_text(json.dumps({"slide": name, "status": "complete"}))
    out = tmp_path / "deep" / "inside" / "out"
    out.mkdir()
    with nothing_written(inside):
        for format, exporter in FORMATS.items():
            target = out / f"cells{exporter.suffixes[0]}"
            refused(lambda format=format, target=target: export_cells(inside, format, target))
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["inside"]
    assert {path.name for path in (tmp_path / "deep" / "inside").iterdir()} == {"run", "out"}
