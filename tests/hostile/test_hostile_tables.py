"""``cells.parquet`` and ``run.json`` from strangers: read, exported, drawn and resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celldetr.cells.export import FORMATS, export_cells
from celldetr.cells.store import CELLS, RUN, read_cells, read_embeddings
from celldetr.errors import InputError
from helpers.cell_tables import random_cells, random_embeddings, write_run
from helpers.hostile import EFFORT, examples, flipped, nothing_written, refused

NAMES = [
    "../../x",
    "/etc/x",
    "a/b",
    "..",
    "",
    ".",
    "a\nb",
    "a\0b",
    "\x1b[31m",
    "x" * 500,
    "=1+1",
    "__proto__",
    "X",
    "obs",
]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -1, *NAMES]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)


FAST = tuple(FORMATS) if EFFORT else ("geojson", "csv")  # anndata takes longer than all the rest
FLAT = tuple(FORMATS) if EFFORT else (*FAST, "anndata")  # stores of SpatialData take longer still


@cache
def run_in(folder: Path) -> Path:
    cells = random_cells(40)
    return write_run(folder / "run", cells, random_embeddings(cells))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("tables"))


def use(directory: Path, out: Path, formats: Sequence[str] = tuple(FORMATS)) -> None:
    """All that reads a table. What is written lies in ``out`` and is called what we called it."""
    out.mkdir(exist_ok=True)
    refused(lambda: read_cells(directory))
    refused(lambda: read_cells(directory / CELLS, ["cell_id", "type"]))
    refused(lambda: read_embeddings(directory))
    with nothing_written(directory):
        for name in formats:
            target = out / f"cells{FORMATS[name].suffixes[0]}"
            refused(lambda name=name, target=target: export_cells(directory, name, target, overwrite=True))
    assert {path.name for path in out.iterdir()} <= {f"cells{FORMATS[name].suffixes[0]}" for name in FORMATS}


@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    tail=st.booleans(),
    cut=st.none() | st.none() | st.none() | st.floats(0, 1),
)
@examples(60)
def test_mutated_tables(changes: list[tuple[float, int]], tail: bool, cut: float | None, run: Path) -> None:
    content = (run / CELLS).read_bytes()
    if tail:  # where the file's description is
        changes = [(1 - where * 0.3, value) for where, value in changes]
    other = run.parent / "mutated"
    other.mkdir(exist_ok=True)
    (other / CELLS).write_bytes(flipped(content, changes, cut))
    (other / RUN).write_bytes((run / RUN).read_bytes())
    use(other, run.parent / "out", FAST)


@given(
    key=st.sampled_from(["slide", "mpp", "mpp_x", "bounds_px", "types", "model", "options", "status"]),
    value=json_values,
)
@examples(60)
def test_any_value_in_run_json(key: str, value: Any, run: Path) -> None:
    other = run.parent / "edited"
    other.mkdir(exist_ok=True)
    (other / CELLS).write_bytes((run / CELLS).read_bytes())
    (other / RUN).write_text(json.dumps(json.loads((run / RUN).read_text()) | {key: value}))
    use(other, run.parent / "out", FAST)


COLUMNS: list[Any] = [
    pa.array(["a"] * 40),
    pa.array([None] * 40, pa.float64()),
    pa.array([None] * 40, pa.string()),
    pa.array([[1.0]] * 40),
    pa.array([float("nan")] * 40),
    pa.array([float("inf")] * 40, pa.float32()),
    pa.array([b"\xff"] * 40),
    pa.array([2**63] * 40, pa.uint64()),
    pa.array([-1] * 40, pa.int8()),
    pa.array([True] * 40),
    pa.array([{"a": 1}] * 40),
    pa.array([None] * 40),
    pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(80, np.float64)), 2),
    pa.FixedSizeListArray.from_arrays(pa.array(["x"] * 80), 2),
    pa.array([[1.0, 2.0], *[None] * 39], pa.list_(pa.float16(), 2)) if hasattr(pa, "float16") else None,
]


@pytest.mark.parametrize("value", range(len(COLUMNS)))
def test_columns_of_other_types(value: int, run: Path, tmp_path: Path) -> None:
    table = pq.read_table(run / CELLS)
    for name in table.schema.names:
        other = tmp_path / name
        other.mkdir()
        pq.write_table(table.set_column(table.schema.names.index(name), name, COLUMNS[value]), other / CELLS)
        use(other, tmp_path / "out", FLAT)


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
    use(inside, tmp_path / "deep" / "inside" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["inside"]
    assert {path.name for path in (tmp_path / "deep" / "inside").iterdir()} == {"run", "out"}


@pytest.mark.parametrize(
    "metadata", [b"", b"[]", b"{", b'{"types": 3}', b'{"types": ["a", "a"]}', b"[" * 9999, b"\xff"]
)
def test_metadata_of_the_file(metadata: bytes, run: Path, tmp_path: Path) -> None:
    table = pq.read_table(run / CELLS)
    (tmp_path / "run").mkdir()
    pq.write_table(table.replace_schema_metadata({b"celldetr": metadata}), tmp_path / "run" / CELLS)
    assert len(read_cells(tmp_path / "run")) == 40
    use(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "nul", "\ud800", '{"status": {}}'])
def test_run_json_of_other_kinds(content: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RUN).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError):
        read_cells(tmp_path / "run")  # without a table
    (tmp_path / "run" / CELLS).write_bytes((run / CELLS).read_bytes())
    use(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", ""])
def test_names_that_no_file_can_have(name: str) -> None:
    assert refused(lambda: read_cells(name or "nowhere")) is not None


@pytest.mark.parametrize("rows", [0, 1, 63, -1, -40])
def test_a_table_that_miscounts_itself(rows: int, run: Path, tmp_path: Path) -> None:
    # Found by a campaign: the number of rows stands in the footer, and again in each row group.
    content = (run / CELLS).read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8]
    old, new = (bytes([0x16, 2 * n if n >= 0 else -2 * n - 1]) for n in (40, rows))  # a zigzag varint of Thrift
    assert old in footer
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CELLS).write_bytes(content[: -8 - length] + footer.replace(old, new, 1) + content[-8:])
    use(tmp_path / "run", tmp_path / "out")
