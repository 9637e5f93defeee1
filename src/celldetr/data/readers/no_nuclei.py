"""Images in which there is no nucleus: glass, pen, dust. What a detector must learn to leave alone.

Hard negatives need no labels, only somebody who has looked: the card lists the images, and of an image that is empty in
one part only, that part.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Config, parse
from celldetr.data.card import DatasetCard
from celldetr.data.readers.common import box_sample, read_image
from celldetr.data.readers.layout import Layout, find_items
from celldetr.data.sample import Sample
from celldetr.errors import InputError


class NoNucleiOptions(Config):
    """Options of the format ``no_nuclei``."""

    images: str = "{split}"  # folder of the images, under the card's root
    # Of an image with nuclei elsewhere, the part without: image name -> xyxy in whole pixels.
    crops: dict[str, tuple[int, int, int, int]] = Field(default_factory=dict)


def read(card: DatasetCard, split: str) -> Iterator[Sample]:
    """Read a split: images, or parts of them, with no cell.

    Raises:
        InputError: an image is missing or unreadable, or a part leaves its image; no mpp.
    """
    options = parse(NoNucleiOptions, card.options, f"options of dataset {card.name!r}")
    for item in find_items(card, split, Layout(images=options.images)):
        image = read_image(item.image)
        part = options.crops.get(item.name)
        if part is not None:
            image = _cut(image, part, item.image)
        yield box_sample(card, item.name, image, np.empty((0, 4)), [], [], item.mpp)


def _cut(image: NDArray[np.uint8], part: tuple[int, int, int, int], path: Path) -> NDArray[np.uint8]:
    x0, y0, x1, y1 = part
    height, width = image.shape[:2]
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise InputError(f"{path}: crop {list(part)} is not a part of the image of {width} x {height} px")
    return image[y0:y1, x0:x1]
