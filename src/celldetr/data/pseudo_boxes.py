"""Boxes from points: a watershed seeded at the annotated points on the haematoxylin channel.

Many sets of cell types are annotated with points only, and a detector needs extents. Every nucleus gets the part of the
image that is nearer to it than to its neighbours, uphill of haematoxylin, and within a radius; inside that part it is
what is darker than a level between the local background and the nucleus' own stain. No size is assumed; where that
fails, the nucleus gets the median size of its image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import segmentation

from celldetr.data.stain import haematoxylin

CROSS = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True)
class PseudoBoxes:
    """Parameters, lengths in micrometres; chosen on CoNSeP train by ``benchmarks/pseudo_boxes.py``."""

    smoothing_um: float = 0.4  # sigma of the haematoxylin channel
    seed_um: float = 0.75  # sigma over which a nucleus' own stain is read at its point
    radius_um: float = 8.0  # a nucleus reaches no further from its point
    compactness: float = 0.1  # weight of the distance to the point, in optical density per micrometre
    background_um: float = 20.0  # side of the window in which the background is looked for
    background_percentile: float = 20.0
    level: float = 0.6  # threshold between background (0) and the nucleus' own stain (1)
    smallest_um2: float = 6.0  # a smaller part is not believed


def _background(stain: NDArray[np.float32], mpp: float, params: PseudoBoxes) -> NDArray[np.float32]:
    """A low percentile of the stain around each pixel, found on a coarse grid."""
    step = 4
    coarse = stain[::step, ::step]
    size = max(3, round(params.background_um / mpp / step))
    low = ndimage.percentile_filter(coarse, params.background_percentile, size=size)
    height, width = stain.shape
    return np.repeat(np.repeat(low, step, axis=0), step, axis=1)[:height, :width]


def _extent(part: NDArray[np.bool_], row: int, column: int) -> tuple[NDArray[np.bool_], bool]:
    """Clean one nucleus: tails cut, holes filled, only the piece that holds the point (or the largest) kept."""
    mask = np.pad(part, 1)
    opened = ndimage.binary_opening(mask, CROSS)
    mask = ndimage.binary_fill_holes(opened if opened.any() else mask)
    pieces, count = ndimage.label(mask)
    if count > 1:
        inside = 0 <= row < part.shape[0] and 0 <= column < part.shape[1]
        piece = pieces[row + 1, column + 1] if inside else 0
        if piece == 0:
            piece = 1 + int(np.argmax(ndimage.sum_labels(mask, pieces, np.arange(1, count + 1))))
        mask = pieces == piece
    return mask[1:-1, 1:-1], bool(mask.any())


def pseudo_boxes(
    image: NDArray[np.uint8], points: NDArray[np.floating], mpp: float, params: PseudoBoxes | None = None
) -> NDArray[np.float32]:
    """Find the extents of nuclei from a point in each.

    Args:
        image: (H, W, 3) uint8 RGB.
        points: (N, 2) x, y in pixels.
        mpp: micrometres per pixel of ``image``.
        params: lengths and levels.

    Returns:
        (N, 4) float32 xyxy in pixels, inside the image, each with its point inside or on its border.
    """
    params = params or PseudoBoxes()
    height, width = image.shape[:2]
    count = len(points)
    if count == 0:
        return np.zeros((0, 4), dtype=np.float32)
    xy = np.clip(np.asarray(points, dtype=np.float32), 0, [width, height])
    column, row = np.minimum(xy.astype(np.int64), [width - 1, height - 1]).T
    raw = haematoxylin(image)
    stain = ndimage.gaussian_filter(raw, params.smoothing_um / mpp)
    seeds = np.zeros((height, width), dtype=np.int32)
    seeds[row, column] = np.arange(1, count + 1)
    distance = ndimage.distance_transform_edt(seeds == 0) * mpp
    parts: NDArray[np.int32] = segmentation.watershed(  # type: ignore[no-untyped-call]
        params.compactness * distance - stain, seeds, mask=distance < params.radius_um
    )
    own = ndimage.gaussian_filter(stain, params.seed_um / mpp)[row, column]
    below = _background(stain, mpp, params)[row, column]
    level = np.concatenate([[np.inf], below + params.level * (own - below)])
    parts = np.where(stain > level[parts], parts, 0)

    boxes = np.zeros((count, 4), dtype=np.float32)
    found = np.zeros(count, dtype=bool)
    for index, window in enumerate(ndimage.find_objects(parts, count)):
        if window is None:
            continue
        top, left = window[0].start, window[1].start
        mask, found[index] = _extent(parts[window] == index + 1, row[index] - top, column[index] - left)
        if not found[index] or mask.sum() * mpp**2 < params.smallest_um2:
            found[index] = False
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[index] = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
    sizes = boxes[found, 2:] - boxes[found, :2]
    usual = np.median(sizes, axis=0) if len(sizes) else np.full(2, 6.0 / mpp)
    boxes[~found] = np.concatenate([xy - usual / 2, xy + usual / 2], axis=1)[~found]
    boxes[:, :2] = np.minimum(boxes[:, :2], xy)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], xy)
    return np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32)).astype(np.float32)
