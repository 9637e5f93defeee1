"""Where on a slide there is tissue, from a thumbnail: decides which tiles are read.

A missed cell is worse than a tile too many, so every rule errs towards tissue. H&E absorbs green above all, hence the
optical density of green, relative to the slide's own background, is the signal. The threshold is a constant, not
Otsu's, which would find tissue on an empty slide and cut an image full of tissue in half; at 8 um a pixel, a single
nucleus in fat passes it. Ink is recognised by colours that no stain can have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import read_around

MASK_MPP = 8.0  # um per mask pixel, finer for images of less than MIN_SIDE mask pixels
MIN_SIDE = 64
STRIP = 512  # rows whose distances are held at once
SAMPLE = 2**22  # pixels that are enough to tell the colour of glass
THRESHOLD = 0.06  # optical density of green above the background; noise and shading stay below 0.04
GROW_UM = 32.0  # about four cells around everything found
DUST_UM2 = 200.0  # tissue with less than this within DUST_REACH_UM of itself is dust
DUST_REACH_UM = 100.0

# Colours that background may have, as optical density: up to a grey of 160 / 255, and no pinker than its tint.
BACKGROUND_DENSITY = 0.2
BACKGROUND_TINT = 0.035

# Optical density of each value a channel can have; float32, because a large slide has tens of millions of mask pixels.
DENSITY10 = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)


@dataclass(frozen=True)
class TissueMask:
    """Tissue on a slide."""

    mask: NDArray[np.bool_]  # (h, w) bool, tissue with a generous rim: what decides about tiles
    core: NDArray[np.bool_]  # (h, w) bool, the tissue itself: what is measured
    scale: tuple[float, float]  # level-0 pixels per mask pixel along x and y
    mpp: float  # of level 0; its square is the area of a pixel
    grey: bool = False  # whether the slide has no colour at all, so that only darkness tells tissue

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """(h + 1, w + 1) tissue pixels above and left of each corner."""
        counts = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), dtype=np.int64)
        counts[1:, 1:] = self.mask.cumsum(0).cumsum(1)
        return counts

    def touches(self, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N, 4) xyxy in level-0 pixels -> (N,) whether any mask pixel that a box overlaps is tissue."""
        h, w = self.mask.shape
        x0, x1 = _touched(boxes[:, 0], boxes[:, 2], self.scale[0], w)
        y0, y1 = _touched(boxes[:, 1], boxes[:, 3], self.scale[1], h)
        c = self._counts
        return (c[y1, x1] - c[y0, x1] - c[y1, x0] + c[y0, x0]) > 0

    def extents(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 4) xyxy in level-0 pixels -> (N, 4) the part of each box that holds its tissue; no area without any."""
        h, w = self.mask.shape
        x0, x1 = _touched(boxes[:, 0], boxes[:, 2], self.scale[0], w)
        y0, y1 = _touched(boxes[:, 1], boxes[:, 3], self.scale[1], h)
        out = np.zeros((len(boxes), 4))
        for i, (left, top, right, bottom) in enumerate(zip(x0, y0, x1, y1, strict=True)):
            part = self.mask[top:bottom, left:right]
            columns, rows = np.flatnonzero(part.any(0)), np.flatnonzero(part.any(1))
            if len(columns):
                out[i] = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
        out *= np.tile(self.scale, 2)
        return np.concatenate([np.maximum(out[:, :2], boxes[:, :2]), np.minimum(out[:, 2:], boxes[:, 2:])], axis=1)

    def area_mm2(
        self,
        region: tuple[float, float, float, float] | None = None,
        share: NDArray[np.float32] | None = None,
    ) -> float:
        """Area of ``core`` in a region (x, y, width, height in level-0 pixels), of each mask pixel its share (h, w)."""
        core = self.core if share is None else self.core * share
        if region is not None:
            x0, x1 = (round(v / self.scale[0]) for v in (region[0], region[0] + region[2]))
            y0, y1 = (round(v / self.scale[1]) for v in (region[1], region[1] + region[3]))
            core = core[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        return float(core.sum() * self.scale[0] * self.scale[1] * (self.mpp / 1000) ** 2)


def _touched(
    low: NDArray[np.float64], high: NDArray[np.float64], scale: float, size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    first = np.clip(np.floor(low / scale), 0, size).astype(np.intp)
    last = np.clip(np.ceil(high / scale), 0, size).astype(np.intp)
    return first, np.maximum(first, last)


def find_tissue(reader: SlideReader) -> TissueMask:
    """The tissue of a slide, from its own thumbnail; where that is damaged, there may be tissue.

    Raises:
        InputError: the slide cannot be read any more.
    """
    short_um = min(reader.width * reader.mpp_x, reader.height * reader.mpp_y)
    size = reader.thumbnail_size(float(np.clip(short_um / MIN_SIDE, reader.mpp, MASK_MPP)))
    thumbnail, lost = read_around(reader, 0, 0, reader.width, reader.height, *size)
    scale = (reader.width / thumbnail.shape[1], reader.height / thumbnail.shape[0])
    core, mask = tissue_of(thumbnail, float(np.mean([scale[0] * reader.mpp_x, scale[1] * reader.mpp_y])))
    return TissueMask(mask | lost, core, scale, reader.mpp, colourless(thumbnail))


def tissue_of(image: NDArray[np.uint8], mpp: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(h, w, 3) uint8 RGB at about 8 um per pixel -> (h, w) bool of the tissue, and of it with a rim of ``GROW_UM``."""
    density = density10(image)
    density -= background(density)
    red, green, blue = np.moveaxis(density, -1, 0)
    core = green > THRESHOLD
    if not colourless(image):
        # Grey takes away all colours alike: air bubbles, dust, black ink. Stain always spares red or blue.
        grey = np.minimum(red, blue) > 0.85 * green
        core &= ~grey & ~ink(density)
    core = _without_dust(core, mpp)
    return core, within(core, GROW_UM / mpp)


def density10(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """-log10 of each channel's share of white; same shape."""
    return DENSITY10[image]


def within(mask: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """(h, w) what lies at most ``reach`` pixels from a mask, strip by strip: distances take 16 bytes a pixel."""
    from scipy import ndimage

    out = np.zeros_like(mask)
    margin = math.ceil(reach)
    for top in range(0, len(mask), STRIP):
        first, last = max(top - margin, 0), top + STRIP + margin
        part = mask[first:last]
        if part.any():
            near = ndimage.distance_transform_edt(~part) <= reach
            out[top : top + STRIP] = near[top - first : top - first + STRIP]
    return out


def colourless(image: NDArray[np.uint8]) -> bool:
    """Whether red, green and blue are equal everywhere, as in a grey image; the glass of a real slide has some tint."""
    return bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())


def background(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3,) optical density of empty glass in an image (h, w, 3); 0 where nothing looks like glass.

    Glass is light and nearly colourless. Pixels that are exactly white are padding, not glass, and do not count.
    """
    step = math.ceil(math.sqrt(density[..., 0].size / SAMPLE))
    flat = density[::step, ::step].reshape(-1, 3)
    tint = flat[:, 1] - flat[:, [0, 2]].min(1)
    glass = (flat.max(1) < BACKGROUND_DENSITY) & (tint < BACKGROUND_TINT) & (flat.max(1) > 0)
    return np.percentile(flat[glass], 25, axis=0) if glass.mean() > 0.005 else np.zeros(3, dtype=np.float32)


def ink(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(h, w) where an image of optical density (h, w, 3) shows a pen: strong ink and the pale rim around it."""
    from scipy import ndimage

    red, green, blue = np.moveaxis(density, -1, 0)
    blue_or_green = red > 1.5 * green  # haematoxylin takes away red and green about alike
    red_ink = (blue > 0.78 * green) & (red < 0.35 * green)  # eosin and blood spare blue more than that
    strong = (blue_or_green & (red > 0.2)) | (red_ink & (green > 0.5))
    # Single pixels of that colour occur in tissue; a stroke is broad.
    strong = ndimage.binary_opening(strong, iterations=2)
    pale = (blue_or_green & (red > 0.05)) | (red_ink & (green > 0.05))
    return ndimage.binary_propagation(strong, mask=strong | pale)


def _without_dust(core: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """Drop specks that are alone; nuclei scattered through fat have each other for company."""
    from scipy import ndimage

    if not core.any():
        return core
    near = within(core, DUST_REACH_UM / 2 / mpp)
    groups, count = ndimage.label(near)
    area = np.bincount(groups[core], minlength=count + 1) * mpp**2
    # An image smaller than a speck of dust is somebody's crop of a nucleus.
    return core & (area[groups] >= min(DUST_UM2, 0.01 * core.size * mpp**2))
