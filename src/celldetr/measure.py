"""Measurements of nuclei: the shape of outlines, and the stain inside them.

docs/reference/outputs.md has the formulas. The vertices of an outline lie around a point inside, counterclockwise in
(x, y), as those of ``celldetr.outlines`` do.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from celldetr.jit import compiled
from celldetr.outlines import RADII, outline_points
from celldetr.stain import UNMIX, optical_density

SHAPES = ("area", "perimeter", "major", "minor", "orientation", "eccentricity", "solidity")
STAINED = ("haematoxylin_mean", "haematoxylin_sd", "eosin_mean", "eosin_sd")
TINY = 1e-12  # area of what is no outline but a line or a point

# (3, 256, 2) decadic optical density of haematoxylin and of eosin that each value of each channel stands for.
_STAIN: NDArray[np.float32] = (
    optical_density(np.arange(256, dtype=np.uint8))[None, :, None] * UNMIX[:, None, :2] / np.float32(math.log(10))
)


def shapes(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, V, 2) vertices -> (N, 7) ``SHAPES``, in the units of the vertices; NaN of an outline without area.

    Axes, orientation (radians) and eccentricity are those of ``skimage.measure.regionprops``: of the ellipse with the
    second moments of the filled outline.
    """
    out = np.full((len(points), len(SHAPES)), np.nan)
    _shapes(np.ascontiguousarray(points, np.float64), out)
    return out


def stains(
    image: NDArray[np.uint8], boxes: NDArray[np.floating], radii: NDArray[np.floating] | None
) -> NDArray[np.float32]:
    """Optical density of haematoxylin and eosin inside outlines.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy, pixels of the image.
        radii: (N, RADII) of the outlines; None: the ellipses in the boxes.

    Returns:
        (N, 4) ``STAINED``, over the pixels whose centres lie inside; NaN where there is none.
    """
    out = np.full((len(boxes), len(STAINED)), np.nan, np.float32)
    points = outline_points(boxes, np.ones((len(boxes), RADII)) if radii is None else radii.astype(np.float64))
    _stains(np.ascontiguousarray(image), points, _STAIN, out)
    return out


def _shape_kernel(points, out):  # type: ignore[no-untyped-def]
    count, vertices = points.shape[:2]
    hull = np.empty((vertices + 1, 2))
    for n in range(count):
        # Relative to a vertex: sums of squares far from the origin would lose digits.
        corner_x, corner_y = points[n, vertices - 1]
        area = length = x_sum = y_sum = xx = yy = xy = ax = ay = 0.0
        for i in range(vertices):
            bx, by = points[n, i, 0] - corner_x, points[n, i, 1] - corner_y
            cross = ax * by - bx * ay
            area += cross
            length += math.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
            x_sum += (ax + bx) * cross
            y_sum += (ay + by) * cross
            xx += (ax * ax + ax * bx + bx * bx) * cross
            yy += (ay * ay + ay * by + by * by) * cross
            xy += (2 * ax * ay + ax * by + bx * ay + 2 * bx * by) * cross
            ax, ay = bx, by
        area /= 2
        if area < TINY:
            continue
        x, y = x_sum / (6 * area), y_sum / (6 * area)
        xx, yy, xy = xx / (12 * area) - x * x, yy / (12 * area) - y * y, xy / (24 * area) - x * y
        middle, spread = (xx + yy) / 2, math.sqrt(((xx - yy) / 2) ** 2 + xy * xy)
        large, small = middle + spread, max(middle - spread, 0.0)
        out[n, 0], out[n, 1] = area, length
        out[n, 2], out[n, 3] = 4 * math.sqrt(large), 4 * math.sqrt(small)
        out[n, 4] = math.atan2(2 * xy, yy - xx) / 2
        out[n, 5] = math.sqrt(1 - small / large)
        out[n, 6] = min(area / _hull_area(points[n], hull), 1.0)


def _hull_kernel(points, hull):  # type: ignore[no-untyped-def]
    """Area of the convex hull of (V, 2) points that lie around a point in it, counterclockwise (Graham, 1972).

    ``hull`` is room for V + 1 points.
    """
    vertices = len(points)
    first = 0
    for i in range(vertices):
        if points[i, 0] < points[first, 0]:
            first = i
    size = 0
    for i in range(first, first + vertices + 1):
        x, y = points[i - vertices if i >= vertices else i]
        while size >= 2:
            ax, ay = hull[size - 1, 0] - hull[size - 2, 0], hull[size - 1, 1] - hull[size - 2, 1]
            if ax * (y - hull[size - 2, 1]) - ay * (x - hull[size - 2, 0]) > 0:
                break
            size -= 1
        hull[size, 0], hull[size, 1] = x, y
        size += 1
    area = 0.0
    for i in range(1, size - 1):
        ax, ay = hull[i, 0] - hull[0, 0], hull[i, 1] - hull[0, 1]
        area += ax * (hull[i + 1, 1] - hull[0, 1]) - ay * (hull[i + 1, 0] - hull[0, 0])
    return area / 2


def _stain_kernel(image, points, table, out):  # type: ignore[no-untyped-def]
    height, width = image.shape[:2]
    count, vertices = points.shape[:2]
    for n in range(count):
        x0, x1, y0, y1 = points[n, 0, 0], points[n, 0, 0], points[n, 0, 1], points[n, 0, 1]
        for i in range(1, vertices):
            x0, x1 = min(x0, points[n, i, 0]), max(x1, points[n, i, 0])
            y0, y1 = min(y0, points[n, i, 1]), max(y1, points[n, i, 1])
        left, top = max(math.ceil(x0 - 0.5), 0), max(math.ceil(y0 - 0.5), 0)
        right, bottom = min(math.ceil(x1 - 0.5), width), min(math.ceil(y1 - 0.5), height)
        if left >= right or top >= bottom:
            continue
        # In a row of pixels, each edge that its line crosses turns inside to outside, or back, from there on.
        turns = np.zeros((bottom - top, right - left + 1), np.uint8)
        ax, ay = points[n, vertices - 1]
        for i in range(vertices):
            bx, by = points[n, i]
            begin, end = max(math.ceil(min(ay, by) - 0.5), top), min(math.ceil(max(ay, by) - 0.5), bottom)
            if begin < end:
                slope = (bx - ax) / (by - ay)
                for row in range(begin, end):
                    column = math.ceil(ax + (row + 0.5 - ay) * slope - 0.5)
                    turns[row - top, min(max(column, left), right) - left] ^= 1
            ax, ay = bx, by
        pixels, h_sum, h_square, e_sum, e_square = 0, 0.0, 0.0, 0.0, 0.0
        for row in range(top, bottom):
            inside = 0
            for column in range(left, right):
                inside ^= turns[row - top, column - left]
                if inside:
                    red, green, blue = image[row, column, 0], image[row, column, 1], image[row, column, 2]
                    h = table[0, red, 0] + table[1, green, 0] + table[2, blue, 0]
                    e = table[0, red, 1] + table[1, green, 1] + table[2, blue, 1]
                    pixels += 1
                    h_sum += h
                    e_sum += e
                    h_square += h * h
                    e_square += e * e
        if pixels:
            h, e = h_sum / pixels, e_sum / pixels
            out[n, 0], out[n, 1] = h, math.sqrt(max(h_square / pixels - h * h, 0.0))
            out[n, 2], out[n, 3] = e, math.sqrt(max(e_square / pixels - e * e, 0.0))


_hull_area = compiled(_hull_kernel, nogil=True, error_model="numpy")
_shapes = compiled(_shape_kernel, nogil=True, error_model="numpy")
_stains = compiled(_stain_kernel, nogil=True, error_model="numpy")
