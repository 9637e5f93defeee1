"""A labelled image in pieces of one size, for networks that measure in fractions of an image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from celldetr.data.augment import background_colour
from celldetr.data.sample import Sample


def pieces(sample: Sample, size: int) -> Iterator[Sample]:
    """Cut an image into squares, row by row; each nucleus is in one of them, that with its point.

    Args:
        sample: any size; what is missing in the last row and column is filled with the colour of its background.
        size: side of a piece, px.
    """
    height, width = sample.image.shape[:2]
    for top in range(0, height, size):
        for left in range(0, width, size):
            image = np.empty((size, size, 3), dtype=np.uint8)
            image[:] = background_colour(sample.image)
            part = sample.image[top : top + size, left : left + size]
            image[: part.shape[0], : part.shape[1]] = part
            corner = np.array([left, top], dtype=np.float32)
            points = sample.points - corner
            boxes = np.clip(sample.boxes - np.tile(corner, 2), 0, size)
            inside = ((points >= 0) & (points < size)).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
            kept = np.asarray(inside, dtype=bool)
            name = f"{sample.name}_{left}_{top}"
            yield sample.keep(kept, name=name, image=image, boxes=boxes, points=points)
