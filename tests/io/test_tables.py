"""Tables of many countries and programs: what they hold does not depend on how it is written."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celldetr.errors import InputError
from celldetr.io.names import find_below, image_of
from celldetr.io.tables import as_number, read_table

CELLS = st.lists(st.tuples(st.floats(0, 9999), st.floats(0, 9999)), min_size=3, max_size=20)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")


def write(path: Path, rows: list[list[str]], delimiter: str, encoding: str, quoting: int) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    path.write_bytes(text.getvalue().encode(encoding))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    CELLS,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(ENCODINGS),
    st.booleans(),
    st.booleans(),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_numbers_come_back_however_they_are_written(
    tmp_path: Path,
    places: list[tuple[float, float]],
    delimiter: str,
    encoding: str,
    header: bool,
    comma: bool,
    quoting: int,
) -> None:
    comma = comma and delimiter != ","
    rows = [[f"{x:.2f}", f"{y:.2f}", "a b;c" if delimiter == "," else "a"] for x, y in places]
    written = [[cell.replace(".", ",") if comma else cell for cell in row] for row in rows]
    path = tmp_path / "a.csv"
    write(path, ([["x", "y", "class"]] if header else []) + written, delimiter, encoding, quoting)
    table = read_table(path)
    assert table.header == (["x", "y", "class"] if header else [])
    assert table.delimiter == delimiter
    for column in (0, 1):
        assert table.numbers(column).tolist() == [float(row[column]) for row in rows]


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("-1.5", -1.5), ("1,5", 1.5), (".5", 0.5), ("1e3", 1000), ("1.2.3", None), ("1_000", None),
     ("nan", None), ("inf", None), ("", None), ("1 2", None), ("1,2,3", None)],
)  # fmt: skip
def test_what_is_a_number(text: str, number: float | None) -> None:
    assert as_number(text) == number


def test_thousands_or_decimals_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x;y\n1,234;5,678\n2,345;6,789\n")
    with pytest.raises(InputError, match=r"is '1,234' 1234 or 1\.234\?"):
        read_table(path).numbers(0)
    path.write_text("x;y\n1,234;5,678\n12,5;6,789\n")
    assert read_table(path).numbers(0).tolist() == [1.234, 12.5]


def test_cells_with_delimiters_and_line_breaks_are_one_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('x,y,class\n1,2,"a, b\nc"\n3,4,d\n')
    assert [cells for _, cells in read_table(path).rows] == [["1", "2", "a, b\nc"], ["3", "4", "d"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04...", "spreadsheet"),
        (b"x,y\n1,2\n\xff\xfe\xfa", "save it as UTF-8"),
        (b"0,1,2\n10,20,a\n", "may be numbers of columns"),
        (b"tumour,1,2\ntumour,3,4\n", "begins with 'tumour'"),
        (b"x,y,class\n1,5,2,5,a\n", "5 values for 3 columns; if commas"),
    ],
)
def test_what_leaves_a_doubt_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "a.csv")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    names = ["a.png", "b/a.png", "b/c.png", "Fälle 1.tif", "d.ome.tif", "e_cells.png", "e.png", "f.png", "f.tif"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return [tmp_path / name for name in names]


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("a.png", "a.png"), ("b\\a.png", "b/a.png"), (r"C:\data\b\a.png", "b/a.png"), ("/home/x/b/a.png", "b/a.png"),
        ("x/C.PNG", "b/c.png"), ("Fa\u0308lle 1.tif", "Fälle 1.tif"), ("F%C3%A4lle%201.tif", "Fälle 1.tif"),
        ("../a.png", "a.png"), ("z.png", None), ("", None),
    ],
)  # fmt: skip
def test_paths_of_other_systems(written: str, found: str | None, images: list[Path], tmp_path: Path) -> None:
    assert find_below(tmp_path, written, images) == (None if found is None else tmp_path / found)


@pytest.mark.parametrize(
    ("stem", "found"),
    [
        ("a", "a.png"), ("A.PNG", "a.png"), ("a_labels", "a.png"), ("a detections", "a.png"), ("a-cells_gt", "a.png"),
        ("d", "d.ome.tif"), ("e_cells", "e_cells.png"), ("e", "e.png"), ("labels", None), ("ab", None),
    ],
)  # fmt: skip
def test_the_image_of_labels(stem: str, found: str | None, images: list[Path], tmp_path: Path) -> None:
    flat = [path for path in images if path.parent == tmp_path]
    assert image_of(stem, flat) == (None if found is None else tmp_path / found)


def test_two_images_of_one_name_are_asked_for(images: list[Path]) -> None:
    with pytest.raises(InputError, match=r"2 images called 'f' \(f.png, f.tif\)"):
        image_of("f", images)
