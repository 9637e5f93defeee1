"""Cells, tiles and tissue inside a region of interest: exactly what filtering the whole slide would leave.

A cell is inside if its centre is, outlines and the edges of holes included. The region decides which tiles are read,
not where they lie. Their cells outside the region take part in the suppression at seams and are then dropped: one of
them can be a nucleus that a neighbouring tile must not report again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

ROUNDING = 1e-9  # share of a block that may be missing if it is wholly inside


@dataclass(frozen=True)
class RoiCells:
    """A region of interest on a slide.

    Attributes:
        geometry: in level-0 pixels.
        influence: level-0 pixels along x and y within which a cell outside can decide about one inside
            (``seams.influence``).
    """

    geometry: shapely.MultiPolygon
    influence: tuple[float, float]

    def __post_init__(self) -> None:
        shapely.prepare(self.geometry)

    def inside(self, centres: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N, 2) level-0 pixels -> (N,) whether each lies in the region or on its outline."""
        return np.asarray(shapely.intersects_xy(self.geometry, centres[:, 0], centres[:, 1]), dtype=bool)

    def touches(self, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N, 4) xyxy that tiles own, level-0 pixels -> (N,) whether each must be read."""
        x, y = self.influence
        grown = shapely.box(*(boxes + np.array([-x, -y, x, y])).T)
        return np.asarray(shapely.intersects(self.geometry, grown), dtype=bool)


def share_of_pixels(
    geometry: shapely.Geometry, shape: tuple[int, int], scale: tuple[float, float]
) -> NDArray[np.float32]:
    """How much of each pixel of a mask lies inside a geometry in level-0 pixels -> (h, w), 0 to 1.

    Blocks on the outline are cut in four with their piece of it, down to single pixels, so that a long outline is not
    gone through once a pixel.

    Args:
        geometry: in level-0 pixels.
        shape: (h, w) of the mask.
        scale: level-0 pixels per mask pixel along x and y.
    """
    share = np.zeros(shape, dtype=np.float32)
    size = 1 << max(0, max(shape) - 1).bit_length()
    corners = np.zeros((1, 2), dtype=np.int64)  # column, row
    parts = np.array([geometry], dtype=object)
    while len(corners):
        low, high = corners * np.array(scale), (corners + size) * np.array(scale)
        boxes = shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1])
        parts = _areas(shapely.intersection(parts, boxes))
        inside = shapely.area(parts) / (size**2 * scale[0] * scale[1])
        if size == 1:
            share[corners[:, 1], corners[:, 0]] = inside
            break
        whole = inside > 1 - ROUNDING
        for column, row in corners[whole]:
            share[row : row + size, column : column + size] = 1
        cut = (inside > 0) & ~whole
        size //= 2
        steps = np.array([[0, 0], [size, 0], [0, size], [size, size]])
        corners = (corners[cut][:, None] + steps).reshape(-1, 2)
        parts = np.repeat(parts[cut], 4)
        on_mask = (corners[:, 0] < shape[1]) & (corners[:, 1] < shape[0])
        corners, parts = corners[on_mask], parts[on_mask]
    return share


def _areas(parts: NDArray[np.object_]) -> NDArray[np.object_]:
    """Geometries without the points and lines where a box only touches an outline."""
    for i in np.flatnonzero(shapely.get_type_id(parts) == shapely.GeometryType.GEOMETRYCOLLECTION):
        pieces = [piece for piece in shapely.get_parts(parts[i]) if piece.area > 0]
        parts[i] = shapely.union_all(pieces)
    return parts
