"""Masks of the nuclei of an image: an instance map, or a polygon each. Both can be drawn, and become outlines.

``Masks.map`` is what evaluation compares, at the resolution of the labels; ``Masks.outlines`` is what training learns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from celldetr.outlines import mask_outlines, polygon_outlines


@dataclass(frozen=True)
class InstanceMap:
    """Masks without overlap.

    Attributes:
        numbers: (H, W) int32, 0 for background, i + 1 for nucleus i.
    """

    numbers: NDArray[np.int32]
    complete = True  # each nucleus has a mask

    def keep(self, which: NDArray[np.bool_]) -> InstanceMap:
        """Masks of some of the N nuclei, a mask (N,)."""
        renumbered = np.concatenate([[0], np.where(which, np.cumsum(which), 0)]).astype(np.int32)
        return InstanceMap(renumbered[self.numbers])

    def moved(self, scale: NDArray[np.floating], shift: NDArray[np.floating], shape: tuple[int, ...]) -> InstanceMap:
        """Masks in an image of ``shape`` (H, W, ...) whose pixels (x, y) are ``scale * (x, y) + shift`` of this one's.

        Each pixel has the number that its centre had.
        """
        (rows, y), (columns, x) = (
            _sources(new, old, scale[axis], shift[axis])
            for new, old, axis in zip(shape[:2], self.numbers.shape, (1, 0), strict=True)
        )
        numbers = np.zeros(shape[:2], np.int32)
        numbers[np.ix_(rows, columns)] = self.numbers[np.ix_(y, x)]
        return InstanceMap(numbers)

    def map(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """(H, W) numbers, as in ``InstanceMap``; ``shape`` is the image's."""
        return self.numbers

    def outlines(self, boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """(N, ``RADII``, 2) points on the border of each nucleus, seen from its box (N, 4)."""
        return mask_outlines(self.numbers, np.arange(1, len(boxes) + 1), boxes)

    def extents(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes (N, 4) xyxy and areas (N,), px, of the nuclei, each of which has a pixel."""
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(self.numbers)]
        areas = np.bincount(self.numbers.ravel(), minlength=1)[1:]
        return np.array(boxes, dtype=np.float32).reshape(-1, 4), areas


@dataclass(frozen=True)
class Polygons:
    """Masks as areas, which may overlap.

    Attributes:
        areas: (N,) shapely polygons or multipolygons in pixels of the image; None where a nucleus has no mask.
    """

    areas: NDArray[np.object_]

    @property
    def complete(self) -> bool:
        """Whether each nucleus has a mask."""
        return not bool(shapely.is_missing(self.areas).any())

    def keep(self, which: NDArray[np.bool_]) -> Polygons:
        """Masks of some of the N nuclei, a mask (N,)."""
        return Polygons(self.areas[which])

    def moved(self, scale: NDArray[np.floating], shift: NDArray[np.floating], shape: tuple[int, ...]) -> Polygons:
        """As of ``InstanceMap``; not clipped to the image."""
        return Polygons(shapely.transform(self.areas, lambda points: points * scale + shift))

    def map(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """(H, W) numbers, as in ``InstanceMap``; where nuclei overlap, that of the smaller one."""
        return draw(self.areas, np.argsort(-shapely.area(self.areas), kind="stable"), shape)

    def outlines(self, boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """(N, ``RADII``, 2) points on the border of each nucleus, seen from its box (N, 4); NaN without a mask."""
        return polygon_outlines(self.areas, boxes)


Masks = InstanceMap | Polygons


def _sources(new: int, old: int, scale: float, shift: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Along one axis the pixels of a new image that lie in the old one, and which pixel each was."""
    source = np.floor((np.arange(new) + 0.5 - shift) / scale).astype(np.int64)
    inside = np.flatnonzero((source >= 0) & (source < old))
    return inside, source[inside]


def number_nuclei(instances: NDArray[np.integer]) -> tuple[NDArray[np.int64], InstanceMap]:
    """The numbers (N,), rising, that an instance map (H, W) has for its nuclei, and the map."""
    numbers, positions = np.unique(instances, return_inverse=True)
    ranks = positions.reshape(instances.shape)  # 0 .. number of distinct values, however large the values are
    first = int(len(numbers) > 0 and numbers[0] == 0)
    return numbers[first:].astype(np.int64), InstanceMap((ranks + (1 - first)).astype(np.int32))


def draw(areas: NDArray[np.object_], order: Iterable[Any], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Draw polygons: a pixel belongs to one if its centre lies in it.

    Args:
        areas: (N,) shapely areas; None draws nothing.
        order: their positions; later ones are drawn over earlier ones.
        shape: (H, W, ...) of the image.

    Returns:
        (H, W) 0 for background, i + 1 for polygon i.
    """
    canvas = np.zeros(shape[:2], np.int32)
    shapely.prepare(areas)
    bounds = np.nan_to_num(shapely.bounds(areas)).reshape(-1, 4)
    corners = np.clip(np.rint(bounds), 0, np.tile(shape[1::-1], 2)).astype(int).tolist()  # pixels with their centre in
    x, y = np.arange(shape[1]) + 0.5, (np.arange(shape[0]) + 0.5)[:, None]
    for i in order:
        left, top, right, bottom = corners[i]
        inside = shapely.contains_xy(areas[i], x[left:right], y[top:bottom])
        canvas[top:bottom, left:right][inside] = i + 1
    return canvas
