"""Boxes from points: a watershed seeded at the points on the haematoxylin channel, then a contour in each basin.

A watershed alone ends at the wrong place where a nucleus is pale, vesicular or on blue cytoplasm. So the nucleus is the
best closed contour around its point: one that crosses from stained to unstained, encloses what is stained at least
halfway between background and nucleus, and stays in its basin, with a pull towards the image's typical radius.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import segmentation

from celldetr.stain import haematoxylin

# Lengths in micrometres, amounts relative to the nucleus' contrast; chosen on CoNSeP train.
# Basins.
BASIN_SMOOTHING_UM = 0.5  # sigma of the channel the watershed runs on
COMPACTNESS = 1.0  # added to the watershed's relief per micrometre of distance to the nearest point
LARGEST_UM = 8.0  # a nucleus reaches no further from its point
SMALLEST_UM = 1.0  # and at least as far as this, on every side
# Contrast: 0 is the background, 1 the nucleus' own stain.
BACKGROUND_UM = 20.0  # side of the window of the background
BACKGROUND_PERCENTILE = 10.0
OWN_UM = 3.0  # radius of the nucleus' own stain
OWN_PERCENTILE = 80.0  # high, for pale nuclei with a dark rim
LEAST_CONTRAST = 0.05  # optical density; less is noise and is not amplified
# Contour.
SMOOTHING_UM = 0.25  # sigma of the channel of the edges
RAY_STEP_UM = 0.25
EDGE_UM = 0.5  # inside and outside of an edge are means over this length
EDGE_CAP = 0.6  # an edge counts no more than this: the rim of a dark neighbour is no better than one's own
LEVEL = 0.45  # contrast above which a pixel counts as inside
INTERIOR = 0.5  # weight per micrometre of what lies inside, relative to the edge
OUTSIDE = 1.0  # what a micrometre beyond the basin counts against
LEAVING = 0.5  # fixed price of leaving the basin
ROUGHNESS = 0.05  # price of each step between neighbouring rays
LARGEST_JUMP = 3  # steps between neighbouring rays
TYPICAL = 0.1  # pull towards the image's typical radius, per unit of log radius
RAYS = 32
COARSE = 4  # px; the background is that of every fourth pixel
NEVER = -1e9


def basins(stain: NDArray[np.float32], points: NDArray[np.float32], mpp: float) -> NDArray:
    """Divide an image among points: (H, W) int32, 1 + index of the point, 0 where no point is near."""
    height, width = stain.shape
    column, row = _pixels(points, stain.shape)
    seeds = np.zeros((height, width), dtype=np.int32)
    seeds[row, column] = np.arange(1, len(points) + 1)
    distance = ndimage.distance_transform_edt(seeds == 0) * mpp
    relief = COMPACTNESS * distance - ndimage.gaussian_filter(stain, BASIN_SMOOTHING_UM / mpp)
    near = distance < LARGEST_UM
    divided: NDArray[np.int32] = segmentation.watershed(relief, seeds, mask=near)  # type: ignore[no-untyped-call]
    return divided


def _pixels(points: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(2, N) column and row of the pixels that hold the points."""
    return np.clip(np.floor(points), 0, [shape[1] - 1, shape[0] - 1]).astype(np.int64).T


def _background(stain: NDArray[np.float32], points: NDArray[np.float32], mpp: float) -> NDArray:
    """(N,) the stain around each point that is not nucleus: a low percentile of a wide window."""
    size = max(3, round(BACKGROUND_UM / mpp / COARSE))
    low = ndimage.percentile_filter(stain[::COARSE, ::COARSE], BACKGROUND_PERCENTILE, size=size)
    column, row = _pixels(points, stain.shape) // COARSE
    return low[row, column]


def _look_along(
    stain: NDArray[np.float32],
    divided: NDArray[np.int32],
    points: NDArray[np.float32],
    rays: NDArray[np.floating],
    distances: NDArray[np.floating],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(N, A, R) the stain, and whether it is still the point's basin, along rays (2, A) at distances (R,) in pixels."""
    height, width = stain.shape
    x, y = points.T[:, :, None, None] + rays[:, None, :, None] * distances  # (N, A, R) each
    along = ndimage.map_coordinates(stain, [y - 0.5, x - 0.5], order=1, mode="nearest")
    column = np.clip(np.floor(x), 0, width - 1).astype(np.int64)
    row = np.clip(np.floor(y), 0, height - 1).astype(np.int64)
    own_column, own_row = _pixels(points, stain.shape)
    return along, divided[row, column] == divided[own_row, own_column][:, None, None]


def _scores(
    contrast: NDArray[np.floating], inside: NDArray[np.bool_], radii: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(N, A, R) score of each ray's radius: the edge there and the stain within it."""
    count = contrast.shape[2]
    reach = max(1, round(EDGE_UM / RAY_STEP_UM))
    padded = np.pad(contrast, ((0, 0), (0, 0), (reach, reach)), mode="edge")
    within = sum(padded[:, :, reach - step : reach - step + count] for step in range(reach)) / reach
    beyond = sum(padded[:, :, reach + 1 + step : reach + 1 + step + count] for step in range(reach)) / reach
    edge = np.clip(within - beyond, -EDGE_CAP, EDGE_CAP)
    content = np.where(inside, np.clip(contrast - LEVEL, -1, 1), -OUTSIDE)
    score = edge + INTERIOR * RAY_STEP_UM * np.cumsum(content, axis=2)
    left = np.cumsum(~inside, axis=2) > 1  # the first sample beyond the border is still the border
    score -= LEAVING * left
    score[:, :, radii < SMALLEST_UM] -= 5  # more than any contour can gain on a ray
    return score


def pseudo_boxes(image: NDArray[np.uint8], points: NDArray[np.floating], mpp: float) -> NDArray[np.float32]:
    """Derive the boxes of nuclei from a point in each.

    Args:
        image: (H, W, 3) uint8 RGB.
        points: (N, 2) x, y in pixels.
        mpp: micrometres per pixel of ``image``.

    Returns:
        (N, 4) float32 xyxy in pixels, clipped to the image, each with its point inside.
    """
    if len(points) == 0:
        return np.zeros((0, 4), dtype=np.float32)
    height, width = image.shape[:2]
    xy = np.clip(np.asarray(points, dtype=np.float32), 0, [width, height]).astype(np.float32)
    raw = haematoxylin(image)
    divided = basins(raw, xy, mpp)
    stain = ndimage.gaussian_filter(raw, SMOOTHING_UM / mpp)

    radii = np.arange(1, round(LARGEST_UM / RAY_STEP_UM) + 1) * RAY_STEP_UM
    angles = np.arange(RAYS) * 2 * np.pi / RAYS
    rays = np.stack([np.cos(angles), np.sin(angles)])  # (2, A)
    along, own_basin = _look_along(stain, divided, xy, rays, (radii - RAY_STEP_UM / 2) / mpp)
    inside = np.logical_and.accumulate(own_basin | (radii <= SMALLEST_UM / 2), axis=2)

    core = np.where(inside, along, np.nan)[:, :, radii <= OWN_UM].reshape(len(xy), -1)
    own = np.nanpercentile(core, OWN_PERCENTILE, axis=1)
    background = _background(stain, xy, mpp)
    scale = np.maximum(own - background, LEAST_CONTRAST)
    contrast = (along - background[:, None, None]) / scale[:, None, None]

    score = _scores(contrast, inside, radii)
    chosen = radii[best_radii(score, LARGEST_JUMP, ROUGHNESS)]
    typical = np.median(chosen.mean(axis=1))
    score -= TYPICAL * np.abs(np.log(radii / typical))
    chosen = radii[best_radii(score, LARGEST_JUMP, ROUGHNESS)]  # (N, A)

    reach = rays[:, None] * chosen / mpp  # (2, N, A)
    boxes = np.concatenate([xy + reach.min(axis=2).T, xy + reach.max(axis=2).T], axis=1)
    return np.clip(boxes, 0, np.array([width, height, width, height])).astype(np.float32)


def best_radii(score: NDArray[np.floating], largest_step: int, step_cost: float) -> NDArray[np.int64]:
    """Best closed contour around each of N centres, by dynamic programming: the radius (N, A) of each ray.

    The score of a contour is the sum over its rays, minus a cost for changes from ray to ray.

    Args:
        score: (N, A, R), of N centres, A rays in order of angle, R radii in rising order; higher is better.
        largest_step: by how many radii neighbouring rays may differ.
        step_cost: subtracted per radius of difference.
    """
    count, rays, radii = score.shape
    # Two and a half turns, of which the middle one counts: its first and last ray have seen each other.
    order = [ray % rays for ray in range(2 * rays + rays // 2)]
    steps = np.arange(-largest_step, largest_step + 1)
    total = score[:, order[0]]
    came_from = []
    for ray in order[1:]:
        padded = np.pad(total, ((0, 0), (largest_step, largest_step)), constant_values=NEVER)
        options = np.stack(
            [padded[:, largest_step + step : largest_step + step + radii] - step_cost * abs(step) for step in steps]
        )  # (steps, N, R): the best total of a contour that comes from radius + step
        choice = options.argmax(axis=0)
        came_from.append(steps[choice] + np.arange(radii))
        total = options.max(axis=0) + score[:, ray]
    index = np.arange(count)
    path = np.empty((count, len(order)), dtype=np.int64)
    path[:, -1] = total.argmax(axis=1)
    for position in range(len(order) - 2, -1, -1):
        path[:, position] = came_from[position][index, path[:, position + 1]]
    start = rays // 2
    return np.roll(path[:, start : start + rays], start, axis=1)
