"""Places of a slide at full detail, with the cells in them: where a reader sees whether outlines fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image

from celldetr.cells.reader import CellTable, numbers
from celldetr.cells.rings import ring_columns
from celldetr.cells.schema import BOX
from celldetr.report.crops import jpeg_uri
from celldetr.report.density import count_squares
from celldetr.report.held_table import HeldTable
from celldetr.report.marks import draw_borders
from celldetr.slide.damage import read_around

if TYPE_CHECKING:
    from celldetr.slide.base_reader import SlideReader

SIDE_UM = 200.0  # of a field
PIXELS = 640  # of its picture
REACH_UM = 15.0  # of a nucleus beyond its centre


@dataclass(frozen=True)
class Field:
    """A square of the slide: what it is, its picture with borders and without (``data:``), its corner, its cells."""

    title: str
    drawn: str
    plain: str
    x_px: float
    y_px: float
    cells: int


def show_fields(table: CellTable, reader: SlideReader) -> list[Field]:
    """The densest field, and one of the median density among those with cells; fewer where they are the same."""
    mpp_x, mpp_y = table.mpp_xy or (reader.mpp, reader.mpp)
    counts = count_squares(table, reader.width * mpp_x, reader.height * mpp_y, SIDE_UM).sum(0)
    order = np.argsort(counts, axis=None, kind="stable")[np.count_nonzero(counts == 0) :]
    if not len(order):
        return []
    chosen = {"The densest": int(order[-1]), "Of median density": int(order[len(order) // 2])}
    fields: list[Field] = []
    for title, square in chosen.items():
        if square not in [chosen[known.title] for known in fields]:
            row, column = divmod(square, counts.shape[1])
            # The last squares of a slide reach beyond it: what is shown is moved back.
            left = min(column * SIDE_UM / mpp_x, max(0.0, reader.width - SIDE_UM / mpp_x))
            top = min(row * SIDE_UM / mpp_y, max(0.0, reader.height - SIDE_UM / mpp_y))
            fields.append(_field(title, table, reader, left, top, (mpp_x, mpp_y)))
    return fields


def _field(
    title: str, table: CellTable, reader: SlideReader, left: float, top: float, mpp: tuple[float, float]
) -> Field:
    """The field whose corner is a level-0 pixel."""
    across, down = SIDE_UM / mpp[0], SIDE_UM / mpp[1]
    cells, inside = _cells_in(table, left, top, across, down, (REACH_UM / mpp[0], REACH_UM / mpp[1]))
    pixels, _ = read_around(reader, left, top, across, down, PIXELS, PIXELS)
    picture = Image.fromarray(pixels)
    shades, scale = list(table.colours.values()), (PIXELS / across, PIXELS / down)
    draw_borders(picture, scale, HeldTable.part(table, cells), shades, (left, top))
    return Field(title, jpeg_uri(picture), jpeg_uri(Image.fromarray(pixels)), left, top, inside)


def _cells_in(
    table: CellTable, left: float, top: float, across: float, down: float, reach: tuple[float, float]
) -> tuple[pa.Table, int]:
    """Cells that may be seen in a window, and how many have their centre in it."""
    columns = tuple(dict.fromkeys((*BOX, "type", *ring_columns(table))))
    parts, inside = [], 0
    for batch in table.batches(columns):
        x, y = numbers(batch, "x_px") - left, numbers(batch, "y_px") - top
        inside += int(((x >= 0) & (x < across) & (y >= 0) & (y < down)).sum())
        near = (x > -reach[0]) & (x < across + reach[0]) & (y > -reach[1]) & (y < down + reach[1])
        if near.any():
            parts.append(batch.filter(pa.array(near)))
    return (pa.Table.from_batches(parts) if parts else table.take(np.empty(0, np.int64), columns)), inside
