"""What an image is stained with, by its colours: whether it can be the H&E that models have learned.

Five things are told from H&E: fluorescence (bright colours on black), luminance and chroma that nobody decoded
(glass of (235, 128, 128)), a negative, immunohistochemistry with a brown chromogen, and red and blue exchanged.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import DamageError
from celldetr.slide.tissue import density10

Looks = Literal["H&E", "fluorescence", "luminance", "negative", "brown", "exchanged"]

BLACK = 50  # value of the brightest channel
# Share of black pixels, and saturation (HSV) of the brightest tenth of the others, above which both an image glows. Of
# 600 tiles of H&E none of less than .1 black is above .60, and none of more above .33 (benchmarks/stain_check.py).
GLOWING = ((0.6, -1.0), (0.1, 0.62), (-1.0, 0.75))
# However much is black, an image does not glow whose other pixels are light in the median, pale where they are
# brightest, and to this share coloured, as grey fluorescence is not.
LIGHT, PALE, COLOURED, FEW = 150, 0.35, 0.1, 0.05
VOID = 2.2  # least optical density of the black around what was scanned, in every channel
STAINED, LEAST_STAINED = 0.08, 200  # mean optical density of stained pixels, and how many say anything
CHROMA, GLASS = 10, 215  # distance from 128 of both chroma channels of glass, and its least luminance
GREEN = 0.5  # share of stained pixels that absorb least green, of a negative; of H&E at most .25, without green ink
BROWN = 0.03  # how much more blue than green the darkest pixels absorb
# Haematoxylin absorbs much red and little blue, eosin the reverse and green above all. So nuclei stand out in red more
# than in blue, and where a pixel absorbs more green than others it absorbs less red than blue. On nine sets of H&E and
# the same with red and blue exchanged (benchmarks/stain_check.py) both together tell them apart best.
NUCLEUS_UM, AROUND_UM = 1.0, 6.0  # sigma: what lies between is of the size of nuclei
EXCHANGED, PAIRED = -0.2, 0.7  # least of the logarithm of red's over blue's contrast, minus so much of the correlation

HINTS: dict[Looks, str] = {
    "fluorescence": "it looks like fluorescence (bright structures on black) or a negative, and the model has learned "
    "H&E",
    "luminance": "its pixels look like luminance and chroma that were not decoded to RGB (pink glass, teal tissue): "
    "convert them, e.g. with Pillow: Image.fromarray(pixels, 'YCbCr').convert('RGB')",
    "negative": "its colours look inverted (dark glass, green tissue): save its negative, 255 - image",
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
    return looks_like(*parts)


def looks_like(*images: NDArray[np.uint8]) -> Looks:
    """What images (H, W, 3) at about 1 um per pixel are stained with; "H&E" where nothing speaks against it."""
    return looks_of(*map(density10, images))


def looks_of(*densities: NDArray[np.float32]) -> Looks:
    """``looks_like`` of the optical densities (H, W, 3) of images, by ``density10``."""
    density = np.concatenate([np.zeros((0, 3)), *(each.reshape(-1, 3) for each in densities)])
    if not len(density):
        return "H&E"
    values = 256 * 10**-density - 1
    if _glows(values):
        return "fluorescence"
    if is_luminance(values):
        return "luminance"
    # Black margins absorb all colours alike, and have edges sharper than a nucleus.
    void = (density > VOID).all(1)  # not everywhere, or it would glow
    inside = density[~void].mean(0)
    densities = tuple(np.where((each > VOID).all(2, keepdims=True), inside, each) for each in densities)
    mean = density.mean(1)
    stained = (mean > STAINED) & ~void
    if stained.sum() < LEAST_STAINED:
        return "H&E"
    density, mean = density[stained], mean[stained]
    share = density / density.sum(1, keepdims=True)
    if (share[:, 1] < share[:, ::2].min(1)).mean() > GREEN:
        return "negative"
    _, green, blue = share[mean >= np.quantile(mean, 0.9)].mean(0)
    if blue - green > BROWN:
        return "brown"
    contrast = np.concatenate([_nuclear(each) for each in densities])[stained].std(0)
    spread = share[:, 1].std() * (share[:, 0] - share[:, 2]).std()
    if not (contrast > 0).all() or not spread:
        return "H&E"
    paired = np.mean((share[:, 1] - share[:, 1].mean()) * (share[:, 0] - share[:, 2])) / spread
    return "exchanged" if np.log(contrast[0] / contrast[2]) - PAIRED * paired < EXCHANGED else "H&E"


def _glows(values: NDArray[np.float64]) -> bool:
    """Whether pixels (N, 3) are bright and coloured on black, where stained tissue grows pale as it grows bright."""
    top = values.max(1)
    is_lit = top >= BLACK
    if not is_lit.any():
        return True
    top, saturation = top[is_lit], 1 - values[is_lit].min(1) / top[is_lit]
    brightest = float(np.median(saturation[top >= np.quantile(top, 0.9)]))
    is_tissue = np.median(top) >= LIGHT and (saturation > COLOURED).mean() > FEW and brightest <= PALE
    return not is_tissue and any(1 - is_lit.mean() > black and brightest > least for black, least in GLOWING)


def is_luminance(pixels: NDArray[np.generic]) -> bool:
    """Whether the brightest pixels have the values of white in YCbCr, which no glass has in RGB."""
    values = pixels.reshape(-1, 3).astype(np.float64)
    bright = values[values[:, 0] >= max(GLASS, np.quantile(values[:, 0], 0.95))]
    return len(bright) > 0 and bool((np.abs(np.median(bright[:, 1:], 0) - 128) < CHROMA).all())


def _nuclear(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H * W, 3) optical density of what is about as large as nuclei, against its surroundings."""
    from scipy import ndimage

    fine, coarse = (ndimage.gaussian_filter(density, (sigma, sigma, 0)) for sigma in (NUCLEUS_UM, AROUND_UM))
    return (fine - coarse).reshape(-1, 3)
