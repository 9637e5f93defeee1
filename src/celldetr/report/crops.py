"""Crops of single cells, all of one physical size so that they can be compared: their pixels, and what a page shows."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.slide.damage import read_around

if TYPE_CHECKING:
    from celldetr.slide.base_reader import SlideReader

FIELD_UM = 32.0  # side of what a crop shows: a nucleus and its neighbourhood
PAGE_PIXELS = 112  # side of the picture inside the page
QUALITY = 88  # of JPEG


def cell_pixels(reader: SlideReader, x: float, y: float, mpp: tuple[float, float], side: int) -> NDArray[np.uint8]:
    """(side, side, 3) uint8 of ``FIELD_UM`` around a point in level-0 px, white outside the slide; ``mpp`` along x and
    y."""
    across, down = FIELD_UM / mpp[0], FIELD_UM / mpp[1]
    return read_around(reader, x - across / 2, y - down / 2, across, down, side, side)[0]


def jpeg_uri(image: Image.Image, quality: int = QUALITY) -> str:
    """An RGB picture as a ``data:`` address that can stand in a page."""
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Crop:
    """The tissue around one cell (a ``data:`` address, ``side`` px), and its box in px of that picture."""

    title: str
    picture: str
    left: float
    top: float
    width: float
    height: float
    side: int = PAGE_PIXELS


def crop_cell(reader: SlideReader, cell: NDArray[np.float64], mpp: tuple[float, float], name: str) -> Crop:
    """Read the tissue around one cell: (6,) x, y, w, h in level-0 px, score, type score; ``name`` of its type."""
    x, y, w, h, score, type_score = (float(value) for value in cell)
    pixels = cell_pixels(reader, x, y, mpp, PAGE_PIXELS)
    width, height = (size * side * PAGE_PIXELS / FIELD_UM for size, side in zip((w, h), mpp, strict=True))
    return Crop(
        title=f"{name} {type_score:.2f}, score {score:.2f}, at {x:.0f}, {y:.0f} px",
        picture=jpeg_uri(Image.fromarray(pixels)),
        left=round((PAGE_PIXELS - width) / 2, 1),
        top=round((PAGE_PIXELS - height) / 2, 1),
        width=round(width, 1),
        height=round(height, 1),
    )
