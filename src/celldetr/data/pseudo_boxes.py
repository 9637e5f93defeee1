"""Boxes from points: a watershed seeded at the points on the haematoxylin channel, then a contour in each basin.

A watershed alone ends at the wrong place where a nucleus is pale, vesicular or on blue cytoplasm. So the nucleus is the
best closed contour around its point: one that crosses from stained to unstained, encloses what is stained at least
halfway between background and nucleus, and stays in its basin, with a pull towards the image's typical radius.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import segmentation

from celldetr.data.contour import best_radii
from celldetr.data.stain import haematoxylin

RAYS = 32
COARSE = 4  # px; the background is looked for on every fourth pixel


@dataclass(frozen=True)
class PseudoBoxConfig:
    """Lengths in micrometres, amounts relative to the nucleus' contrast; chosen on CoNSeP train."""

    # Basins.
    basin_smoothing_um: float = 0.5  # sigma of the channel the watershed runs on
    compactness: float = 1.0  # added to the watershed's relief per micrometre of distance to the nearest point
    largest_um: float = 8.0  # a nucleus reaches no further from its point
    smallest_um: float = 1.0  # and at least as far as this, on every side
    # Contrast: 0 is the background, 1 the nucleus' own stain.
    background_um: float = 20.0  # side of the window in which the background is looked for
    background_percentile: float = 10.0
    own_um: float = 3.0  # radius in which the nucleus' own stain is looked for
    own_percentile: float = 80.0  # high, for pale nuclei with a dark rim
    least_contrast: float = 0.05  # optical density; less is noise and is not amplified
    # Contour.
    smoothing_um: float = 0.25  # sigma of the channel on which edges are looked for
    ray_step_um: float = 0.25
    edge_um: float = 0.5  # inside and outside of an edge are means over this length
    edge_cap: float = 0.6  # an edge counts no more than this: the rim of a dark neighbour is no better than one's own
    level: float = 0.45  # contrast above which a pixel speaks for being inside
    interior: float = 0.5  # weight per micrometre of what lies inside, relative to the edge
    outside: float = 1.0  # what a micrometre beyond the basin counts against
    leaving: float = 0.5  # fixed price of leaving the basin
    roughness: float = 0.05  # price of each step between neighbouring rays
    largest_jump: int = 3  # steps between neighbouring rays
    typical: float = 0.1  # pull towards the image's typical radius, per unit of log radius


def basins(stain: NDArray[np.float32], points: NDArray[np.float32], mpp: float, config: PseudoBoxConfig) -> NDArray:
    """Divide an image among points: (H, W) int32, 1 + index of the point, 0 where no point is near."""
    height, width = stain.shape
    column, row = _pixels(points, stain.shape)
    seeds = np.zeros((height, width), dtype=np.int32)
    seeds[row, column] = np.arange(1, len(points) + 1)
    distance = ndimage.distance_transform_edt(seeds == 0) * mpp
    relief = config.compactness * distance - ndimage.gaussian_filter(stain, config.basin_smoothing_um / mpp)
    near = distance < config.largest_um
    divided: NDArray[np.int32] = segmentation.watershed(relief, seeds, mask=near)  # type: ignore[no-untyped-call]
    return divided


def _pixels(points: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(2, N) column and row of the pixels that hold the points."""
    return np.clip(np.floor(points), 0, [shape[1] - 1, shape[0] - 1]).astype(np.int64).T


def _background(
    stain: NDArray[np.float32], points: NDArray[np.float32], mpp: float, config: PseudoBoxConfig
) -> NDArray:
    """(N,) the stain around each point that is not nucleus: a low percentile of a wide window."""
    size = max(3, round(config.background_um / mpp / COARSE))
    low = ndimage.percentile_filter(stain[::COARSE, ::COARSE], config.background_percentile, size=size)
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
    contrast: NDArray[np.floating], inside: NDArray[np.bool_], radii: NDArray[np.floating], config: PseudoBoxConfig
) -> NDArray[np.float64]:
    """(N, A, R) score of each ray's radius: the edge there and the stain within it."""
    count = contrast.shape[2]
    reach = max(1, round(config.edge_um / config.ray_step_um))
    padded = np.pad(contrast, ((0, 0), (0, 0), (reach, reach)), mode="edge")
    within = sum(padded[:, :, reach - step : reach - step + count] for step in range(reach)) / reach
    beyond = sum(padded[:, :, reach + 1 + step : reach + 1 + step + count] for step in range(reach)) / reach
    edge = np.clip(within - beyond, -config.edge_cap, config.edge_cap)
    content = np.where(inside, np.clip(contrast - config.level, -1, 1), -config.outside)
    score = edge + config.interior * config.ray_step_um * np.cumsum(content, axis=2)
    left = np.cumsum(~inside, axis=2) > 1  # the first sample beyond the border is still the border
    score -= config.leaving * left
    score[:, :, radii < config.smallest_um] -= 5  # more than any contour can gain on a ray
    return score


def pseudo_boxes(
    image: NDArray[np.uint8], points: NDArray[np.floating], mpp: float, config: PseudoBoxConfig | None = None
) -> NDArray[np.float32]:
    """Derive the boxes of nuclei from a point in each.

    Args:
        image: (H, W, 3) uint8 RGB.
        points: (N, 2) x, y in pixels.
        mpp: micrometres per pixel of ``image``.
        config: lengths and weights.

    Returns:
        (N, 4) float32 xyxy in pixels, clipped to the image, each with its point inside.
    """
    config = config or PseudoBoxConfig()
    if len(points) == 0:
        return np.zeros((0, 4), dtype=np.float32)
    height, width = image.shape[:2]
    xy = np.clip(np.asarray(points, dtype=np.float32), 0, [width, height]).astype(np.float32)
    raw = haematoxylin(image)
    divided = basins(raw, xy, mpp, config)
    stain = ndimage.gaussian_filter(raw, config.smoothing_um / mpp)

    radii = np.arange(1, round(config.largest_um / config.ray_step_um) + 1) * config.ray_step_um
    angles = np.arange(RAYS) * 2 * np.pi / RAYS
    rays = np.stack([np.cos(angles), np.sin(angles)])  # (2, A)
    along, own_basin = _look_along(stain, divided, xy, rays, (radii - config.ray_step_um / 2) / mpp)
    inside = np.logical_and.accumulate(own_basin | (radii <= config.smallest_um / 2), axis=2)

    core = np.where(inside, along, np.nan)[:, :, radii <= config.own_um].reshape(len(xy), -1)
    own = np.nanpercentile(core, config.own_percentile, axis=1)
    background = _background(stain, xy, mpp, config)
    scale = np.maximum(own - background, config.least_contrast)
    contrast = (along - background[:, None, None]) / scale[:, None, None]

    score = _scores(contrast, inside, radii, config)
    chosen = radii[best_radii(score, config.largest_jump, config.roughness)]
    typical = np.median(chosen.mean(axis=1))
    score -= config.typical * np.abs(np.log(radii / typical))
    chosen = radii[best_radii(score, config.largest_jump, config.roughness)]  # (N, A)

    reach = rays[:, None] * chosen / mpp  # (2, N, A)
    boxes = np.concatenate([xy + reach.min(axis=2).T, xy + reach.max(axis=2).T], axis=1)
    return np.clip(boxes, 0, np.array([width, height, width, height])).astype(np.float32)
