"""Quality of patches: the share of pen. Sharpness is measured by ``slide.focus``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import read_around
from celldetr.slide.tissue import background, density10, ink

PEN_MPP = 2.0  # at 4, red ink of which a patch has only the pale edge is not seen
GLASS_MPP = 32.0
SMALLEST_SIDE = 64  # px of the thumbnail that gives the colour of glass


def glass_density(reader: SlideReader) -> NDArray[np.float32]:
    """(3,) optical density of a slide's empty glass.

    Raises:
        InputError: the slide cannot be read any more.
    """
    short_um = min(reader.width * reader.mpp_x, reader.height * reader.mpp_y)
    size = reader.thumbnail_size(float(np.clip(short_um / SMALLEST_SIDE, reader.mpp, GLASS_MPP)))
    thumbnail, _ = read_around(reader, 0, 0, reader.width, reader.height, *size)
    return background(density10(thumbnail))


def pen_share(image: NDArray[np.uint8], mpp: float, glass: NDArray[np.float32]) -> float:
    """Share of a patch, (H, W, 3) uint8 RGB, that has a colour which no stain has; ``glass`` as ``glass_density``."""
    height, width = image.shape[:2]
    size = max(1, round(width * mpp / PEN_MPP)), max(1, round(height * mpp / PEN_MPP))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    return float(ink(density10(small) - glass).mean())
