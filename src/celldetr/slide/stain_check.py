"""What an image is stained with, by its colours: whether it can be the H&E that models have learned.

Four things are told from H&E: fluorescence (a black image with few colours), luminance and chroma that nobody decoded
(glass of (235, 128, 128)), immunohistochemistry with a brown chromogen, and red and blue exchanged.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from celldetr.slide.base_reader import SlideReader
from celldetr.slide.colour import is_luminance
from celldetr.slide.damage import DamageError
from celldetr.slide.tissue import density10

Looks = Literal["H&E", "fluorescence", "luminance", "brown", "exchanged"]

BLACK, BLACK_SHARE = 50, 0.6  # value of the brightest channel, and share of such pixels, of fluorescence
STAINED, LEAST_STAINED = 0.08, 200  # mean optical density of stained pixels, and how many say anything
# On tiles of nine sets of H&E and the same with red and blue exchanged (benchmarks/stain_check.py), ``order`` and
# ``REDNESS`` of the darkest pixels' red minus blue tell them apart best.
BROWN, EXCHANGED, REDNESS = 0.03, -0.028, 0.17

HINTS: dict[Looks, str] = {
    "fluorescence": "it looks like fluorescence (bright structures on black), and the model has learned H&E",
    "luminance": "its pixels look like luminance and chroma that were not decoded to RGB (pink glass, teal tissue): "
    "convert them, e.g. with Pillow: Image.fromarray(pixels, 'YCbCr').convert('RGB')",
    "brown": "it looks like immunohistochemistry (brown nuclei or membranes), and the model has learned H&E: expect "
    "missed nuclei and wrong types",
    "exchanged": "red and blue look exchanged (BGR, as OpenCV reads): pass image[..., ::-1], or save the file in RGB",
}


PLACES, SIDE, MPP = 9, 192, 1.0  # places of a slide that are looked at, their side in px, um per pixel


def stain_of(reader: SlideReader, boxes: NDArray[np.float64]) -> Looks:
    """What a slide is stained with, from a few places.

    Args:
        reader: the slide.
        boxes: (N, 4) xyxy in level-0 pixels, where there is tissue.
    """
    chosen = boxes[np.unique(np.linspace(0, len(boxes) - 1, min(PLACES, len(boxes))).round().astype(int))]
    size = np.array([MPP / reader.mpp_x, MPP / reader.mpp_y]).clip(1) * SIDE  # level-0 px
    parts = []
    for x0, y0, x1, y1 in chosen:
        width, height = np.minimum(size, [x1 - x0, y1 - y0])
        out = (max(1, round(width * SIDE / size[0])), max(1, round(height * SIDE / size[1])))
        try:
            parts.append(reader.read_region((x0 + x1 - width) / 2, (y0 + y1 - height) / 2, width, height, *out))
        except DamageError:  # the engine reads around it, and says so
            continue
    return looks_like(np.concatenate([part.reshape(-1, 1, 3) for part in parts])) if parts else "H&E"


def looks_like(pixels: NDArray[np.uint8]) -> Looks:
    """What an image (H, W, 3), best at about 1 um per pixel, is stained with; "H&E" where nothing speaks against it."""
    values = pixels.reshape(-1, 3)
    if (values.max(1) < BLACK).mean() > BLACK_SHARE:
        return "fluorescence"
    if is_luminance(pixels):
        return "luminance"
    density = density10(values).astype(np.float64)
    mean = density.mean(1)
    stained = mean > STAINED
    if stained.sum() < LEAST_STAINED:
        return "H&E"
    density, mean = density[stained], mean[stained]
    half, most = np.quantile(mean, [0.5, 0.9])
    share = density / density.sum(1, keepdims=True)
    red, green, blue = share[mean >= most].mean(0)
    pale = share[mean <= half].mean(0)
    if blue - green > BROWN:
        return "brown"
    # Haematoxylin absorbs more red and less blue than eosin does, and what is darkest has most of it.
    order = (red - blue) - (pale[0] - pale[2])
    return "exchanged" if order + REDNESS * (red - blue) < EXCHANGED else "H&E"
