"""Where on a slide the cells of each type are: counts in squares, as small pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.cells.reader import CellTable, numbers
from celldetr.report.overview import nice_length

SQUARES = 60  # along the longer side, at most
LEAST_UM = 50.0  # side of a square: a smaller one holds a handful of cells, whose density is noise
PICTURE = 360  # px, longer side of a picture, at least
EMPTY = (226, 226, 230)  # of squares without any cell


@dataclass(frozen=True)
class DensityMap:
    """Cells of one type over a slide.

    Attributes:
        picture: a ``data:`` address; from dark, none, to bright, ``most``, and grey where there is no cell of any type.
        most: cells per mm2 at the bright end: that which one square in fifty exceeds, among squares with cells.
    """

    picture: str
    most: float


@dataclass(frozen=True)
class Densities:
    """A map a type, in the order of the table's, and the side of their squares."""

    maps: list[DensityMap]
    side_um: float
    ramp: str  # ``data:`` address of the colours from 0 to the most


def count_squares(table: CellTable, width_um: float, height_um: float, side_um: float) -> NDArray[np.int64]:
    """(K, rows, columns) cells of each type in squares of a slide; what lies beyond it counts at its edge."""
    shape = int(np.ceil(height_um / side_um)), int(np.ceil(width_um / side_um))
    counts = np.zeros((len(table.types), *shape), np.int64)
    for batch in table.batches(("x_um", "y_um", "type")):
        column = np.clip(numbers(batch, "x_um") // side_um, 0, shape[1] - 1).astype(np.intp)
        row = np.clip(numbers(batch, "y_um") // side_um, 0, shape[0] - 1).astype(np.intp)
        flat = (table.type_codes(batch) * shape[0] + row) * shape[1] + column
        counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)
    return counts


def density_maps(table: CellTable, width_um: float, height_um: float) -> Densities:
    """Maps of a slide of this size, its squares as fine as makes sense."""
    longer = max(width_um, height_um)
    side = max(LEAST_UM, nice_length(longer / SQUARES))
    while longer / side > SQUARES:
        side *= 2
    counts = count_squares(table, width_um, height_um, side)
    occupied = counts.sum(0) > 0
    per_mm2 = counts * (1000 / side) ** 2
    ramp = _colours()
    maps = []
    for values in per_mm2:
        most = float(np.quantile(values[occupied], 0.98)) if occupied.any() else 0.0
        most = most or float(values.max())
        shade = np.clip(values / most, 0, 1) if most else np.zeros(values.shape)
        pixels = ramp[np.round(shade * 255).astype(np.intp)]
        pixels[~occupied] = EMPTY
        zoom = -(-PICTURE // max(pixels.shape[:2]))
        maps.append(DensityMap(_png(pixels.repeat(zoom, 0).repeat(zoom, 1)), most))
    return Densities(maps, side, _png(np.ascontiguousarray(ramp[None].repeat(8, 0))))


def _colours() -> NDArray[np.uint8]:
    """(256, 3) matplotlib's cividis, which is alike with and without the common colour vision deficiencies."""
    from matplotlib import colormaps

    return np.round(colormaps["cividis"](np.arange(256))[:, :3] * 255).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
