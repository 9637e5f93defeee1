"""A slide that is damaged in places: the error that says so, the record of what is lost, and reading around it.

Scanners and copies over networks leave files in which a few compressed tiles are broken. The rest of such a slide is
worth having, if everybody who sees the result is told which part is not in it.
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

# Every look for damage may cost opening the slide again, so it is found no more finely than this.
PARTS = 64  # of the longer side of a picture
TILE_SMALLEST = 64  # px of a tile


class DamageError(InputError):
    """A place of a slide cannot be decoded although the file can be opened; other places may be whole.

    Args:
        path: of the slide.
        reason: what was to be read, and what is wrong, without the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class DamagedTile:
    """Pixels of a tile of which some could not be decoded.

    Attributes:
        pixels: (height, width, 3) uint8 RGB, white where they are lost.
        lost: left, top, right, bottom of a box, in its pixels, that holds all that are.
        reason: what the file's decoder said.
    """

    pixels: NDArray[np.uint8]
    lost: tuple[int, int, int, int]
    reason: str

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
    """``SlideReader.read_region`` that leaves out what cannot be decoded. A slide without damage is read in one go.

    Args:
        reader: the slide.
        x, y, width, height: a rectangle, level-0 pixels.
        out_width, out_height: size of the result.
        smallest: pixels of the result to which damage is looked for; by default a share of its longer side.

    Returns:
        (out_height, out_width, 3) uint8 RGB, white where it is damaged, and (out_height, out_width) bool, where
        that is: to ``smallest`` pixels, and to what the decoder reads in one piece.
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
        for top, bottom in _halves(out_height, smallest):
            for left, right in _halves(out_width, smallest):
                part = (
                    x + width * left / out_width,
                    y + height * top / out_height,
                    width * (right - left) / out_width,
                    height * (bottom - top) / out_height,
                )
                inner = read_around(reader, *part, right - left, bottom - top, smallest)
                pixels[top:bottom, left:right], lost[top:bottom, left:right] = inner
    return pixels, lost


def _halves(size: int, smallest: int) -> list[tuple[int, int]]:
    return [(0, size)] if size <= smallest else [(0, size // 2), (size // 2, size)]


def read_tile(
    reader: SlideReader, x: float, y: float, width: float, height: float, out_width: int, out_height: int
) -> NDArray[np.uint8] | DamagedTile:
    """``SlideReader.read_region``, or what can be had of it.

    Raises:
        InputError: the slide cannot be read any more.
    """
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
