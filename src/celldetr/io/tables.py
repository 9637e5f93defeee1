"""CSV and its relatives, as spreadsheets and programs of many countries write them: the only reader of such tables.

Delimiter (comma, semicolon, tab, bar), encoding (UTF-8, UTF-16), decimal comma and header are recognised. What may mean
two things is refused: a wrong guess would move cells without a word.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.safe_io import is_file, read_bytes, shown

TABLE_BYTES = 256 * 2**20
DELIMITERS = "\t;|,"  # where two explain a file equally, the first: a comma may be a decimal sign
SNIFFED = 200  # rows by which the delimiter is recognised
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_SEPARATOR_LINE = re.compile(r"\ufeff?\"?sep=(.)\"?", re.IGNORECASE)
# First bytes of files that are called .csv and are something else.
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")

# What programs and people write for nothing, in lower case without brackets; R, pandas, Excel, databases, QuPath.
MISSING = frozenset(
    {"", "na", "n/a", "n.a.", "nan", "none", "null", "nil", "pathclass:null", "-", "--", "?", ".", "not available"}
    | {"unclassified", "unlabelled", "unlabeled", "unassigned", "unknown", "undefined", "undetermined", "missing"}
    | {"no class"}
)
_EXCEL_ERROR = re.compile(r"#[a-z0-9/]+[!?]?")


def is_missing(text: str) -> bool:
    """Whether a cell says that there is no value."""
    plain = text.strip().lower().strip("<>()[]{}").strip().replace(": ", ":")
    return plain in MISSING or bool(_EXCEL_ERROR.fullmatch(plain))


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        path: the file.
        header: names of the columns; empty: the file has none.
        rows: line in the file, and a cell a column without surrounding blanks, of each row that is not empty.
        delimiter: between the cells.
    """

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]
    delimiter: str

    def column(self, name: str) -> int:
        """Position of a column.

        Raises:
            InputError: there are two of this name.
        """
        if self.header.count(name) > 1:
            raise InputError(f"{self.path}: has two columns {name!r}; rename one of them")
        return self.header.index(name)

    def numbers(self, column: int) -> NDArray[np.float64]:
        """(N,) the numbers of a column.

        Raises:
            InputError: a cell is no number, or a comma in it may be a decimal sign or one of thousands.
        """
        cells = [(line, cells[column]) for line, cells in self.rows]
        commas = [text for _, text in cells if _DECIMAL_COMMA.fullmatch(text)]
        if commas and all(_THOUSANDS.fullmatch(text) for text in commas):
            raise InputError(
                f"{self.path}: is {commas[0]!r} {commas[0].replace(',', '')} or {commas[0].replace(',', '.')}? Write"
                " numbers with a decimal point and without signs between thousands"
            )
        values = np.empty(len(cells))
        for i, (line, text) in enumerate(cells):
            value = as_number(text)
            if value is None:
                raise InputError(f"{self.path}, row {line}: expected a number, got {shown(text, 40)}")
            values[i] = value
        return values


def as_number(text: str) -> float | None:
    """A number with a decimal point or comma; None for other text."""
    plain = text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text
    return float(plain) if _NUMBER.fullmatch(plain) else None


def read_text(path: Path) -> str:
    """A text file in UTF-8 or UTF-16, with a byte order mark or without.

    Raises:
        InputError: no such file, or no text.
    """
    if not is_file(path):
        raise InputError(f"{path}: cannot be read (no such file)")
    content = read_bytes(path, TABLE_BYTES)
    if content.startswith(_SPREADSHEETS):
        raise InputError(f"{path}: is no text but a spreadsheet (Excel) or an archive; save it as CSV UTF-8")
    encoding = "utf-8-sig"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in content[:200]:  # half of the bytes of plain text in UTF-16
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as text ({error}); save it as UTF-8 (in Excel: CSV UTF-8)") from None


def read_table(path: Path) -> Table:
    """Read a table.

    The first row is the header if no cell of it is a number.

    Raises:
        InputError: no such file, no text, no table, or one that may be read in two ways.
    """
    text = read_text(path)
    given = _SEPARATOR_LINE.fullmatch(text.split("\n", 1)[0].strip())
    try:
        choices = given[1] if given else DELIMITERS
        delimiter = max(choices, key=lambda each: _fitness(_parse(text, each, SNIFFED)))  # the first of the best
        rows = _parse(text, delimiter)[1 if given else 0 :]
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None
    if not rows:
        return Table(path, [], [], delimiter)
    header = _header(path, rows)
    rows = rows[1:] if header else rows
    width = len(header) or max(len(cells) for _, cells in rows)
    for line, cells in rows:
        if len(cells) > width:
            raise InputError(
                f"{path}, row {line}: {len(cells)} values for {width} columns; if commas in it are decimal signs, put"
                " semicolons or tabs between the columns"
            )
    return Table(path, header, [(line, cells + [""] * (width - len(cells))) for line, cells in rows], delimiter)


def _parse(text: str, delimiter: str, most: int | None = None) -> list[tuple[int, list[str]]]:
    """Rows that are not empty, without empty cells at their end, as some programs end all rows with a delimiter.

    Lines before the first row that begin with # and are not divided are comments.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    rows: list[tuple[int, list[str]]] = []
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        while len(cells) > 1 and not cells[-1]:
            cells.pop()
        is_comment = not rows and len(cells) == 1 and cells[0].startswith("#")
        if any(cells) and not is_comment:
            rows.append((reader.line_num, cells))
        if len(rows) == most:
            break
    return rows


def _fitness(rows: Sequence[tuple[int, list[str]]]) -> tuple[int, bool, int]:
    """How well a delimiter explains rows: columns of numbers, a header as wide as they are, and how few others."""
    body = [cells for _, cells in rows[1:] or rows]
    counts = sorted(sum(_is_number(cell) for cell in cells) for cells in body) or [0]
    widths = sorted(map(len, body)) or [0]
    count, width = counts[len(counts) // 2], widths[len(widths) // 2]
    return count, bool(rows) and len(rows[0][1]) == width > 1, count - width if count > 1 else width


def _is_number(text: str) -> bool:
    return as_number(text) is not None


def _header(path: Path, rows: Sequence[tuple[int, list[str]]]) -> list[str]:
    """The first row if it is a header, else nothing."""
    first = rows[0][1]
    if not any(map(_is_number, first)):
        return first
    if len(first) > 1 and first == [str(i) for i in range(len(first))]:
        raise InputError(
            f"{path}: its first row, {', '.join(first)}, may be numbers of columns, not a cell; name the columns:"
            " x,y,class"
        )
    if not _is_number(first[0]) and not is_missing(first[0]):
        raise InputError(
            f"{path}: no header, and its first row begins with {shown(first[0], 40)}; expected x,y,class, or a header"
        )
    return []
