"""Points as CSV: for each image a file of the same name with a row "x,y,label" per nucleus, with a header or without.

Without a header the columns are x, y and label; with one they are found by name, in any order. A row without a label is
a cell of unknown type. Boxes are derived by ``celldetr.data.pseudo_boxes``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from celldetr.data.card import DatasetCard
from celldetr.data.readers.common import labelled_image, read_image, read_lines, type_index
from celldetr.data.readers.layout import FileLayout, find_items
from celldetr.data.sample import UNKNOWN, Sample
from celldetr.errors import InputError, near


class PointsOptions(FileLayout):
    """Options of the format ``points_csv``."""

    suffix: str = ".csv"
    x: str = "x"
    y: str = "y"
    label: str = "class"  # not needed when the card has a single type without labels
    offset: float = 0.0  # added to x and y: 0.5 where the source counts whole pixels


def read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and rows, each with its number in the file; the header is empty where the first row begins with a number.

    Raises:
        InputError: no such file, or no CSV.
    """
    try:
        numbered = list(enumerate(csv.reader(read_lines(path)), start=1))
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None
    rows = [(number, [cell.strip() for cell in cells]) for number, cells in numbered if any(map(str.strip, cells))]
    if not rows:
        return [], []
    try:
        float(rows[0][1][0])
    except ValueError:
        return rows[0][1], rows[1:]
    return [], rows


def read(card: DatasetCard, split: str) -> Iterator[Sample]:
    """Read a split.

    Raises:
        InputError: a file or a column is missing, or a row is not a place in the image and a known label.
    """
    options = card.options_as(PointsOptions)
    names = [options.x, options.y] if card.single_type else [options.x, options.y, options.label]
    for item in find_items(card, split, options):
        path = item.label(options.suffix)
        header, table = read_table(path)
        for name in names if header else ():
            if name not in header:
                raise InputError(f"{path}: no column {name!r} in its header; {near(name, header)}")
        columns = [header.index(name) for name in names] if header else list(range(len(names)))
        points, types, rows = [], [], []
        for number, cells in table:
            where = f"{path}, row {number}"
            try:
                x, y, *label = (cells[column] for column in columns)
                points.append((float(x) + options.offset, float(y) + options.offset))
            except (ValueError, IndexError):
                raise InputError(f"{where}: expected {len(columns)} values, x, y, label; got {cells}") from None
            is_labelled = card.single_type or any(label) or "" in card.label_index
            types.append(type_index(card, "".join(label), where) if is_labelled else UNKNOWN)
            rows.append(where)
        xy = np.array(points).reshape(-1, 2)
        yield labelled_image(card, item.name, read_image(item.image), xy, types, rows, item.mpp)
