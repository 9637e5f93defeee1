"""Outlines of nuclei: radii from the centre of a box to the border of the nucleus in it.

Direction k is ``(cos, sin)(2 pi k / RADII)`` in a frame in which the box is the square from -1 to 1; radius k is where
that ray leaves the nucleus for the last time. 1 everywhere is the ellipse that fills the box.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

RADII = 32
STEPS, FARTHEST = 64, 1.5  # places looked at along a ray, up to so many half sides of the box: its corner is at 1.41
CHUNK = 2000  # nuclei at once


def directions() -> NDArray[np.float64]:
    """(RADII, 2) unit vectors (x, y)."""
    angles = np.arange(RADII) * (2 * np.pi / RADII)
    return np.column_stack([np.cos(angles), np.sin(angles)])


def outline_points(boxes: NDArray[np.floating], radii: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 4) boxes xyxy and (N, RADII) radii -> (N, RADII, 2) points (x, y), which the box need not hold."""
    corners = boxes.astype(np.float64)
    centre, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
    points: NDArray[np.float64] = centre[:, None] + radii[..., None] * directions() * half[:, None]
    return points


def mask_outlines(
    instances: NDArray[np.integer], numbers: NDArray[np.integer], boxes: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Outlines of the nuclei of an instance map.

    Args:
        instances: (H, W), a number for each nucleus.
        numbers: (N,) of the nuclei.
        boxes: (N, 4) xyxy, pixels, of the nuclei.

    Returns:
        (N, RADII, 2) points (x, y) in pixels; the centre where a ray does not meet the nucleus at all.
    """
    height, width = instances.shape
    step = FARTHEST / STEPS
    parts = [np.zeros((0, RADII, 2))]
    for start in range(0, len(boxes), CHUNK):
        part, own = boxes[start : start + CHUNK], numbers[start : start + CHUNK, None]
        radii = np.zeros((len(part), RADII))
        for radius in (np.arange(STEPS) + 0.5) * step:
            x, y = np.floor(outline_points(part, np.full_like(radii, radius))).astype(np.int64).transpose(2, 0, 1)
            inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
            hit = inside & (instances[y.clip(0, height - 1), x.clip(0, width - 1)] == own)
            radii[hit] = radius + step / 2
        parts.append(outline_points(part, radii))
    return np.concatenate(parts).astype(np.float32)


def polygon_outlines(areas: NDArray[np.object_], boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """Outlines of nuclei that were drawn as polygons.

    Args:
        areas: (N,) shapely polygons or multipolygons, pixels; None: there is none.
        boxes: (N, 4) xyxy, pixels, of the nuclei.

    Returns:
        as of ``mask_outlines``; NaN where there is no polygon.
    """
    return outline_points(boxes, polygon_radii(areas, boxes)).astype(np.float32)


def polygon_radii(areas: NDArray[np.object_], boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """As ``polygon_outlines``, the radii (N, RADII)."""
    corners = boxes.astype(np.float64)
    centre, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
    radii = np.where(shapely.is_missing(areas), np.nan, 0.0)[:, None].repeat(RADII, axis=1)
    for start in range(0, len(boxes), CHUNK):
        parts, owners = shapely.get_parts(areas[start : start + CHUNK], return_index=True)
        points, rings = shapely.get_coordinates(shapely.get_exterior_ring(parts), return_index=True)
        if not len(points):
            continue
        owner = owners[rings] + start
        frame = (points - centre[owner]) / half[owner]  # the box is the square from -1 to 1
        edges = np.flatnonzero(rings[1:] == rings[:-1])
        a, along, owner = frame[edges], frame[edges + 1] - frame[edges], owner[edges]
        for k, ray in enumerate(directions()):
            # a + place * along = radius * ray, for place in [0, 1]
            across = _cross(ray, along)
            with np.errstate(divide="ignore", invalid="ignore"):
                radius, place = _cross(a, along) / across, _cross(a, ray) / across
            # A ray through a vertex must not slip between its two edges.
            hit = (radius >= 0) & (place >= -1e-9) & (place <= 1 + 1e-9)
            np.maximum.at(radii[:, k], owner[hit], radius[hit].clip(max=FARTHEST))
    return radii


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    crossed: NDArray[np.float64] = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return crossed
