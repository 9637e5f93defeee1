"""Where patches may be taken on a slide: the cells of a grid that have tissue, in random order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.data.sources import SAME_MPP
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.tissue import find_tissue


@dataclass(frozen=True)
class Places:
    """Places of one slide.

    Attributes:
        corners: (N, 2) top left, level-0 px, in random order.
        step: level-0 px per px of a patch along x and y.
        empty: places with too little tissue, which are not in ``corners``.
        grid: places of the slide in all; 0 where it is smaller than a patch.
    """

    corners: NDArray[np.float64]
    step: tuple[float, float]
    empty: int
    grid: int


def find_places(
    reader: SlideReader, px: int, mpp: float, min_tissue: float, seed: int, regions: Sequence[shapely.Polygon] = ()
) -> Places:
    """Lay a grid over a slide; its places with tissue.

    Pixels of a slide within 1 % of ``mpp`` are taken as they are.

    Args:
        reader: the slide.
        px: side of a patch.
        mpp: micrometres per pixel of a patch.
        min_tissue: least share of a place that is tissue.
        seed: of the grid's offset and of the order.
        regions: level-0 px; if there are any, only places wholly inside of one.

    Raises:
        InputError: the slide cannot be read any more.
    """
    # By seed and name: which other slides there are changes nothing.
    digest = hashlib.sha256(reader.name.encode("utf-8", "surrogateescape")).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
    step_x, step_y = (1.0 if abs(mpp / own - 1) <= SAME_MPP else mpp / own for own in (reader.mpp_x, reader.mpp_y))
    xs, ys = (_axis(length, px * step, rng) for length, step in ((reader.width, step_x), (reader.height, step_y)))
    corners = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    if not len(corners):
        return Places(np.zeros((0, 2)), (step_x, step_y), 0, 0)
    grid = len(corners)
    if regions:
        areas = shapely.box(*corners.T, *(corners + np.array([px * step_x, px * step_y])).T)
        corners = corners[np.any([shapely.covers(region, areas) for region in regions], axis=0)]
    mask = find_tissue(reader)
    share = _shares(mask.core, corners / mask.scale, (px * step_x / mask.scale[0], px * step_y / mask.scale[1]))
    enough = (share > 0) & (share >= min_tissue)
    chosen = corners[enough]
    return Places(chosen[rng.permutation(len(chosen))], (step_x, step_y), int(((share > 0) & ~enough).sum()), grid)


def _axis(length: int, side: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Where places begin along an axis: as many as there is room for, at a random whole pixel of what is left."""
    count = int((length + 1e-6) // side)
    offset = int(rng.uniform() * (length - count * side + 1e-6))
    return offset + side * np.arange(count, dtype=np.float64)


def _shares(core: NDArray[np.bool_], corners: NDArray[np.float64], size: tuple[float, float]) -> NDArray[np.float64]:
    """Share of a mask (h, w) in rectangles with corners (N, 2) and one size, px of the mask."""
    sums = np.zeros((core.shape[0] + 1, core.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = core.cumsum(0, dtype=np.int64).cumsum(1)
    low = np.clip(np.round(corners), 0, np.array(core.shape[::-1]) - 1).astype(np.intp)
    high = np.clip(np.round(corners + size), low + 1, core.shape[::-1]).astype(np.intp)
    (x0, y0), (x1, y1) = low.T, high.T
    tissue = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return tissue.astype(np.float64) / ((x1 - x0) * (y1 - y0))
