"""The order of a cell table's rows: groups of neighbours, so that what shows a part of a slide reads few of them.

Bands of tiles come from top to bottom and are held until a square of their height has enough cells for a row group.
These are halved, across the longer side, until each part is a row group: a rectangle that overlaps no other of the
same bands, and few of the next. In it, cells follow a Hilbert curve. Memory depends on the width of a slide, not on its
height, and never holds more than ``HELD`` cells and a band.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from celldetr.model.output import TileCells
from celldetr.slide.seams import centres

LEAST, MOST = 16_384, 32_768  # cells of a row group; of the last bands of a slide, it may have fewer
HELD = 8 * MOST
_BITS = 22  # of a coordinate on the curve, in level-0 pixels: those of the largest slide


def row_groups(bands: Iterable[TileCells]) -> Iterator[TileCells]:
    """The cells of bands, boxes in level-0 pixels, as row groups that are not empty."""
    held: list[TileCells] = []
    for cells in bands:
        if not len(cells):
            continue
        held.append(cells)
        if _enough(held):
            yield from _parts(TileCells.join(held))
            held = []
    if held:
        yield from _parts(TileCells.join(held))


def _enough(held: list[TileCells]) -> bool:
    count = sum(map(len, held))
    if count < LEAST:
        return False
    points = np.concatenate([centres(cells.boxes) for cells in held])
    width, height = np.ptp(points, axis=0)
    return count >= HELD or count * min(height / max(width, 1.0), 1.0) >= LEAST


def _parts(cells: TileCells) -> Iterator[TileCells]:
    points = centres(cells.boxes)
    for index in halves(points, MOST):
        yield cells.take(index[along_curve(points[index])])


def halves(points: NDArray[np.float64], most: int) -> Iterator[NDArray[np.intp]]:
    """Halve (N, 2) points across the longer side until each part has at most ``most``: the indices of each."""
    todo = [np.arange(len(points))]
    while todo:
        index = todo.pop()
        if len(index) <= most:
            yield index
            continue
        axis = int(np.ptp(points[index], axis=0).argmax())
        ordered = index[np.argsort(points[index, axis], kind="stable")]
        middle = len(ordered) // 2
        todo += [ordered[middle:], ordered[:middle]]


def along_curve(points: NDArray[np.float64]) -> NDArray[np.intp]:
    """Order of (N, 2) points along the Hilbert curve through all pixels of a slide.

    The curve is the same for all slides, so that leaving cells out does not change the order of the others.
    """
    places = points.clip(0, 2**_BITS - 1).astype(np.int64)
    return np.argsort(hilbert(places, _BITS), kind="stable")


def hilbert(places: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """(N, 2) whole x and y from 0 to 2^bits - 1 -> (N,) place on the Hilbert curve through that square."""
    x, y = places[:, 0].copy(), places[:, 1].copy()
    along = np.zeros(len(places), np.int64)
    for bit in reversed(range(bits)):
        right, down = (x >> bit) & 1, (y >> bit) & 1
        along = (along << 2) | ((3 * right) ^ down)
        # The curve in a quadrant is that of the square, mirrored or turned.
        mirror = (2**bits - 1) * (right & (1 - down))
        x, y = x ^ mirror, y ^ mirror
        x, y = np.where(down == 0, y, x), np.where(down == 0, x, y)
    return along
