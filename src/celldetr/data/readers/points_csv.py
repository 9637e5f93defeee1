"""Points as CSV: for each image a file of the same name with a row "x,y,label" per nucleus, with a header or without.

Without a header the columns are x, y and label; with one they are found by name, in any order. A row without a label is
a cell of unknown type. Boxes are found by ``celldetr.data.pseudo_boxes``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from celldetr.config import parse
from celldetr.data.card import DatasetCard
from celldetr.data.readers.common import point_sample, read_image, read_lines, type_index
from celldetr.data.readers.layout import Layout, find_items
from celldetr.data.sample import UNKNOWN, Sample
from celldetr.errors import InputError, near


class PointsOptions(Layout):
    """Options of the format ``points_csv``."""

    suffix: str = ".csv"
    x: str = "x"
    y: str = "y"
    label: str = "class"  # not needed when the card has a single type without labels
    offset: float = 0.0  # added to x and y: 0.5 where the source counts whole pixels


def is_number(text: str) -> bool:
    """Whether the first cell of a file is a coordinate, not the name of a column."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _columns(path: Path, first: list[str], options: PointsOptions, needs_label: bool) -> tuple[bool, list[int]]:
    """Whether the first row is a header, and where x, y and, if needed, the label are."""
    names = [options.x, options.y, options.label][: 3 if needs_label else 2]
    if first and is_number(first[0]):
        return False, list(range(len(names)))
    header = [cell.strip() for cell in first]
    for name in names:
        if name not in header:
            raise InputError(f"{path}: no column {name!r} in its header; {near(name, header)}")
    return True, [header.index(name) for name in names]


def read(card: DatasetCard, split: str) -> Iterator[Sample]:
    """Read a split.

    Raises:
        InputError: a file or a column is missing, or a row is not a place in the image and a known label.
    """
    options = parse(PointsOptions, card.options, f"options of dataset {card.name!r}")
    for item in find_items(card, split, options):
        path = item.label(options.suffix)
        lines = read_lines(path)
        try:
            rows_read = list(enumerate(csv.reader(lines), start=1))
        except csv.Error as error:
            raise InputError(f"{path}: not a CSV file ({error})") from None
        filled = [(number, cells) for number, cells in rows_read if any(map(str.strip, cells))]
        points, types, rows = [], [], []
        if filled:
            has_header, columns = _columns(path, filled[0][1], options, not card.single_type)
            for number, cells in filled[has_header:]:
                where = f"{path}, row {number}"
                try:
                    x, y, *label = (cells[column].strip() for column in columns)
                    points.append((float(x) + options.offset, float(y) + options.offset))
                except (ValueError, IndexError):
                    raise InputError(f"{where}: expected {len(columns)} values, x, y, label; got {cells}") from None
                known = card.single_type or any(label) or "" in card.label_index
                types.append(type_index(card, "".join(label), where) if known else UNKNOWN)
                rows.append(where)
        yield point_sample(card, item.name, read_image(item.image), np.array(points), types, rows, item.mpp)
