"""Points as CSV: for each image a file of the same name with a row "x,y,label" per nucleus, with a header or without.

Delimiter, encoding and decimal sign are recognised (``io.tables``). Without a header the columns are x, y and label;
with one they are found by name (``columns``), in any order. A row without a label is a cell of unknown type. Boxes are
derived by ``celldetr.data.pseudo_boxes``, unless the columns are corners of boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celldetr.data.card import DatasetCard
from celldetr.data.readers.columns import Columns, find_columns
from celldetr.data.readers.common import labelled_image, needed_mpp, read_picture, type_index
from celldetr.data.readers.layout import FileLayout, find_items
from celldetr.data.sample import Sample
from celldetr.errors import InputError, doubt, near
from celldetr.io.names import folded
from celldetr.io.tables import Table, read_table


class PointsOptions(FileLayout):
    """Options of the format ``points_csv``."""

    suffix: str = ".csv"
    x: str = ""  # name of the column; "": found by its name
    y: str = ""
    label: str = ""  # not needed when the card has a single type without labels
    offset: float = 0.0  # added to x and y: 0.5 where the source counts whole pixels


@dataclass(frozen=True)
class Points:
    """Cells of a table.

    Attributes:
        shapes: (N, 2) places or (N, 4) boxes xyxy, in pixels or micrometres.
        micrometres: whether in the latter.
        labels: of each, "" where there is none; None: there is no column of them.
        rows: where each was read, for messages.
        image: the one that the table says it is of; "" where it does not.
        has_header: whether names of columns say what is what.
    """

    shapes: NDArray[np.float64]
    micrometres: bool
    labels: list[str] | None
    rows: list[str]
    image: str = ""
    has_header: bool = True


def read_points(
    path: Path, options: PointsOptions | None = None, *, label: bool = True, optional: bool = False
) -> Points:
    """Read the cells of a table.

    Args:
        path: the file.
        options: of the card.
        label: whether classes are wanted.
        optional: whether there may be no column of them.

    Raises:
        InputError: no such file, no table, a column is missing or may be several, or a place is no number.
    """
    table, options = read_table(path), options or PointsOptions()
    columns = _named(table, options, label)
    if label and columns.label is None and table.header and table.rows and not optional:
        raise InputError(f"{path}: no column 'class' in its header; {near('class', table.header)}")
    shapes = np.array([table.numbers(column) for column in columns.places]).T.reshape(-1, len(columns.places))
    if len(shapes) and shapes.max() <= 1 and len(shapes) > 2:
        raise InputError(f"{path}: all places lie between {shapes.min():g} and {shapes.max():g}; expected pixels")
    column = columns.label
    labels = None if column is None else [cells[column] for _, cells in table.rows]
    rows = [f"{path}, row {line}" for line, _ in table.rows]
    places = shapes + columns.offset + options.offset
    return Points(places, columns.micrometres, labels, rows, columns.image, bool(table.header))


def _named(table: Table, options: PointsOptions, label: bool) -> Columns:
    """The columns that options name, the others as found."""
    given = [name for name in (options.x, options.y, options.label if label else "") if name]
    if table.header:
        for name in given:
            if name not in table.header:
                raise InputError(f"{table.path}: no column {name!r} in its header; {near(name, table.header)}")
    if not table.header or not given:
        return find_columns(table, label)
    if options.x and options.y:
        places = Columns((table.column(options.x), table.column(options.y)), None)
    else:
        places = find_columns(table, label=False)
    known = table.column(options.label) if options.label else find_columns(table).label if label else None
    return replace(places, label=known)


def read(card: DatasetCard, split: str) -> Iterator[Sample]:
    """Read a split.

    Raises:
        InputError: a file or a column is missing, or a row is not a place in the image and a known label.
    """
    options = card.options_as(PointsOptions)
    for item in find_items(card, split, options):
        path = item.label(options.suffix)
        points = read_points(path, options, label=not card.single_type)
        if points.image and not is_called(item.image, points.image):
            doubt(
                f"{path}: says that its cells are of {points.image!r}, and is read as the labels of {item.image.name}"
            )
        picture = read_picture(item.image, item.mpp or card.mpp)
        shapes = points.shapes
        if points.micrometres:
            shapes = shapes / needed_mpp(card, picture.mpp)
        labels = points.labels or [""] * len(points.rows)
        types = [type_index(card, label, row) for label, row in zip(labels, points.rows, strict=True)]
        yield labelled_image(card, item.name, picture.pixels, shapes, types, points.rows, picture.mpp)


def is_called(image: Path, name: str) -> bool:
    """Whether a program may mean an image by a name: a path, or with something before or after its own."""
    meant = folded(name.replace("\\", "/").rpartition("/")[2])
    return folded(image.stem) in meant or meant.rpartition(".")[0] in folded(image.name)
