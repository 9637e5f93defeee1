"""Cutting labelled images into pieces.

Squares of one size are for networks that measure in fractions of an image. Images larger than any published one are cut
into pieces of at most 400 um, because pairing all cells of an image takes time with the cube of their number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from celldetr.data.augment import background_colour
from celldetr.data.sample import Sample

PIECE_UM = 400.0  # largest side of a piece
LARGE_UM = 600.0  # largest side of an image that stays whole

PIECE = re.compile(r" \[x=\d+,y=\d+,w=\d+,h=\d+\]$")

Rectangle = tuple[int, int, int, int]  # xyxy, px


def pieces(sample: Sample, size: int) -> Iterator[Sample]:
    """Cut an image into squares of ``size`` px, row by row, filled up with its background; without its masks."""
    height, width = sample.image.shape[:2]
    background = background_colour(sample.image)
    for top in range(0, height, size):
        for left in range(0, width, size):
            piece = _part(sample, (left, top, min(left + size, width), min(top + size, height)))
            image = np.empty((size, size, 3), dtype=np.uint8)
            image[:] = background
            image[: piece.image.shape[0], : piece.image.shape[1]] = piece.image
            yield replace(piece, name=f"{sample.name}_{left}_{top}", image=image, masks=None)


def cut(sample: Sample) -> Iterator[Sample]:
    """An image as it is, or in pieces of ``PIECE_UM`` of one group if a side is more than ``LARGE_UM``."""
    height, width = sample.image.shape[:2]
    if max(height, width) * sample.mpp <= LARGE_UM:
        yield sample
        return
    for box in rectangles((0, 0, width, height), sample.mpp):
        name, group = piece_name(sample.name, box), sample.group or sample.name
        yield replace(_part(sample, box), name=name, group=group)


def piece_name(name: str, box: Rectangle) -> str:
    """Name of a piece of an image."""
    return f"{name} [x={box[0]},y={box[1]},w={box[2] - box[0]},h={box[3] - box[1]}]"


def whole_name(name: str) -> str:
    """Name of the image that a piece was cut from; of another image, its own."""
    return PIECE.sub("", name)


def rectangles(bounds: tuple[float, float, float, float], mpp: float) -> Iterator[Rectangle]:
    """Divide a rectangle xyxy into rectangles of at most about ``PIECE_UM`` a side, in whole pixels."""
    x0, y0 = (round(low) for low in bounds[:2])
    x1, y1 = max(round(bounds[2]), x0 + 1), max(round(bounds[3]), y0 + 1)
    columns, rows = (max(1, math.ceil(side * mpp / PIECE_UM - 1e-6)) for side in (x1 - x0, y1 - y0))
    xs, ys = ([*map(round, np.linspace(*ends).tolist())] for ends in ((x0, x1, columns + 1), (y0, y1, rows + 1)))
    for row in range(rows):
        for column in range(columns):
            yield xs[column], ys[row], xs[column + 1], ys[row + 1]


def _part(sample: Sample, box: Rectangle) -> Sample:
    """A rectangle of an image with the nuclei whose point is in it, their boxes clipped."""
    left, top, right, bottom = box
    corner = np.array([left, top], dtype=np.float32)
    height, width = sample.image.shape[:2]
    # A point on the far edge of the image belongs to its last pixel.
    last = np.nextafter(np.array([width, height], dtype=np.float32), np.float32(0))
    image = np.ascontiguousarray(sample.image[top:bottom, left:right])
    return replace(sample, points=np.minimum(sample.points, last)).moved(image, np.ones(2, np.float32), -corner)
