"""BRCA-M2C: ``images/*.png``, ``labels/*_gt_class_coords.txt`` with rows "Y X class", splits as list files."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from celldetr.data.card import DatasetCard
from celldetr.data.readers.common import labelled_image, read_lines, read_picture, type_index
from celldetr.data.readers.layout import FileLayout, find_items
from celldetr.data.sample import Sample
from celldetr.errors import InputError


class BrcaOptions(FileLayout):
    """Options of the format ``brca_m2c``."""

    images: str = "images"
    labels: str = "labels"


def read(card: DatasetCard, split: str) -> Iterator[Sample]:
    """Read a split, which the card gives as a list file beside ``images`` and ``labels``, or as a list of names.

    Raises:
        InputError: a file is missing, or a row is not "Y X class" with a known class and a place in the image.
    """
    options = card.options_as(BrcaOptions)
    for item in find_items(card, split, options):
        path = item.label("_gt_class_coords.txt")
        points, types, rows = [], [], []
        for number, line in enumerate(read_lines(path), start=1):
            if not line:
                continue
            where = f"{path}, row {number}"
            try:
                y, x, label = line.split()[:3]
                # Row and column of a pixel, whose centre is half a pixel further: haematoxylin at (row, column) is
                # three times that at (column, row).
                points.append((float(x) + 0.5, float(y) + 0.5))
            except ValueError:
                raise InputError(f"{where}: expected 'Y X class', got {line!r}") from None
            types.append(type_index(card, label, where))
            rows.append(where)
        xy = np.array(points).reshape(-1, 2)
        picture = read_picture(item.image, item.mpp or card.mpp)
        yield labelled_image(card, item.name, picture.pixels, xy, types, rows, picture.mpp)
