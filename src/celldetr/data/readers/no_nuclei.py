"""Images without a nucleus (glass, pen, dust), as hard negatives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from celldetr.config import Config
from celldetr.data.card import DatasetCard
from celldetr.data.readers.common import labelled_image, read_picture
from celldetr.data.readers.layout import FileLayout, find_items
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
    options = card.options_as(NoNucleiOptions)
    for item in find_items(card, split, FileLayout(images=options.images)):
        picture = read_picture(item.image, item.mpp or card.mpp)
        image = picture.pixels
        height, width = image.shape[:2]
        x0, y0, x1, y1 = options.crops.get(item.name, (0, 0, width, height))
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            what = f"crop {[x0, y0, x1, y1]} is not a part of the image of {width} x {height} px"
            raise InputError(f"{item.image}: {what}")
        yield labelled_image(card, item.name, image[y0:y1, x0:x1], np.empty((0, 4)), [], [], picture.mpp)
