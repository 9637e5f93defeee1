"""The pixels of a slide as a pyramid of JPEG tiles, whatever levels its file has.

Places are micrometres from the slide's upper left corner, so that pixels that are not square are shown as they were.
Level 0 of the pyramid is the coarsest; each has half the micrometres per pixel of the one before.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.report.crops import cell_pixels
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import read_around

TILE = 512  # px a side
QUALITY = 85  # of JPEG
CROPS = (72, 96, 144, 192, 288, 576)  # px a side that a crop may have


@dataclass(frozen=True)
class Pyramid:
    """Tiles of a slide that measures ``width`` x ``height`` um, ``finest`` um per pixel at the last level."""

    width: float
    height: float
    finest: float

    @property
    def levels(self) -> int:
        """How many there are: at the coarsest the slide is one tile."""
        return 1 + max(0, math.ceil(math.log2(max(self.width, self.height) / (self.finest * TILE))))

    def side(self, level: int) -> float:
        """Of a tile, um."""
        return TILE * self.finest * 2.0 ** (self.levels - 1 - level)

    def holds(self, level: int, column: int, row: int) -> bool:
        """Whether there is such a tile."""
        if not 0 <= level < self.levels or column < 0 or row < 0:
            return False
        return column * self.side(level) < self.width and row * self.side(level) < self.height


def pyramid_of(reader: SlideReader) -> Pyramid:
    """The pyramid of a slide, as fine as the slide."""
    return Pyramid(reader.width * reader.mpp_x, reader.height * reader.mpp_y, min(reader.mpp_x, reader.mpp_y))


def tile(reader: SlideReader, level: int, column: int, row: int) -> bytes:
    """One tile as a JPEG; white outside the slide, and where it is damaged."""
    side = pyramid_of(reader).side(level)
    across, down = side / reader.mpp_x, side / reader.mpp_y
    return jpeg(read_around(reader, column * across, row * down, across, down, TILE, TILE)[0])


def thumbnail(reader: SlideReader, side: int) -> bytes:
    """The whole slide as a JPEG whose longer side has ``side`` px."""
    pyramid = pyramid_of(reader)
    scale = side / max(pyramid.width, pyramid.height)
    size = max(1, round(pyramid.width * scale)), max(1, round(pyramid.height * scale))
    return jpeg(read_around(reader, 0, 0, reader.width, reader.height, *size)[0])


def crop(reader: SlideReader, x: float, y: float, side: int) -> bytes:
    """The tissue around a point in level-0 px as a JPEG of ``side`` px (``report.crops.FIELD_UM``)."""
    return jpeg(cell_pixels(reader, x, y, (reader.mpp_x, reader.mpp_y), side))


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=QUALITY)
    return stream.getvalue()
