"""Reading slides that are damaged in places: the error that says so, and reading around such places.

Scanners and copies over networks leave files in which a few compressed tiles are broken; the rest is worth having.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError

if TYPE_CHECKING:
    from celldetr.slide.base_reader import SlideReader

# Each attempt on damaged pixels may open the slide again, so damage is located no more finely than this.
PARTS = 64  # of the longer side of a picture
TILE_SMALLEST = 64  # px of a tile


class DamageError(InputError):
    """A place of a slide cannot be decoded although the file opens; ``reason`` is the message without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class FailedTile:
    """Record of a tile of which some could not be decoded."""

    row: int  # of the grid
    column: int
    x_px: float  # what is lost of the part that it owns, level-0 pixels from the slide's top left corner
    y_px: float
    w_px: float
    h_px: float
    mm2: float  # area of that
    reason: str  # what the file's decoder said


@dataclass(frozen=True)
class DamagedTile:
    """Pixels of a tile of which some could not be decoded."""

    pixels: NDArray[np.uint8]  # (height, width, 3) uint8 RGB, white where they are lost
    lost: tuple[int, int, int, int]  # xyxy in its pixels, holds all that are lost
    reason: str  # what the file's decoder said

    @property
    def is_lost(self) -> bool:
        """Whether nothing is left."""
        height, width = self.pixels.shape[:2]
        return self.lost == (0, 0, width, height)


def read_around(
    reader: SlideReader,
    x: float,
    y: float,
    width: float,
    height: float,
    out_width: int,
    out_height: int,
    smallest: int | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """``SlideReader.read_region`` that leaves out what cannot be decoded.

    Args:
        reader, x, y, width, height, out_width, out_height: see there.
        smallest: px of the result down to which damage is located; by default a share of its longer side.

    Returns:
        (out_height, out_width, 3) uint8 RGB, white where it is damaged, and (out_height, out_width) bool, where it is.
    """
    try:
        whole = reader.read_region(x, y, width, height, out_width, out_height)
    except DamageError:
        pixels = np.full((out_height, out_width, 3), 255, dtype=np.uint8)
        lost = np.ones((out_height, out_width), dtype=bool)
    else:
        return whole, np.zeros((out_height, out_width), dtype=bool)
    smallest = max(out_width, out_height, 8 * PARTS) // PARTS if smallest is None else smallest
    if max(out_width, out_height) > smallest:
        step_x, step_y = width / out_width, height / out_height
        for top, bottom in _halves(out_height, smallest):
            for left, right in _halves(out_width, smallest):
                part = (x + left * step_x, y + top * step_y, (right - left) * step_x, (bottom - top) * step_y)
                inner = read_around(reader, *part, right - left, bottom - top, smallest)
                pixels[top:bottom, left:right], lost[top:bottom, left:right] = inner
    return pixels, lost


def _halves(size: int, smallest: int) -> list[tuple[int, int]]:
    return [(0, size)] if size <= smallest else [(0, size // 2), (size // 2, size)]


def read_tile(
    reader: SlideReader, x: float, y: float, width: float, height: float, out_width: int, out_height: int
) -> NDArray[np.uint8] | DamagedTile:
    """``SlideReader.read_region``, or what can be decoded of it."""
    box = (x, y, width, height, out_width, out_height)
    try:
        return reader.read_region(*box)
    except DamageError as error:
        pixels, lost = read_around(reader, *box, smallest=TILE_SMALLEST)
        if not lost.any():  # it can be read in parts: what was wrong has passed
            return pixels
        rows, columns = np.flatnonzero(lost.any(1)), np.flatnonzero(lost.any(0))
        edges = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        return DamagedTile(pixels, edges, error.reason)
