"""BRCA-M2C: ``images/*.png``, ``labels/*_gt_class_coords.txt`` with rows "Y X class", splits as list files.

The coordinates are row and column of a pixel (haematoxylin at (row, column) is three times that at (column, row)), so
the point is the pixel's centre, half a pixel further.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from celldetr.data.card import DatasetCard, Split
from celldetr.data.readers.common import point_sample, read_image, read_lines, type_index
from celldetr.data.sample import Sample
from celldetr.errors import InputError


def read(card: DatasetCard, split: Split) -> Iterator[Sample]:
    """Read the images named in a list file.

    Args:
        card: the dataset.
        split: a file of image names, one a line, beside ``images`` and ``labels``; or the names themselves.

    Raises:
        InputError: a file is missing, or a row is not "Y X class" with a known class and a place in the image.
    """
    root = card.directory()
    names = split if isinstance(split, list) else [line for line in read_lines(root / str(split)) if line]
    for file_name in names:
        image = read_image(root / "images" / file_name)
        stem = file_name.rsplit(".", 1)[0]
        path = root / "labels" / f"{stem}_gt_class_coords.txt"
        points, types, rows = [], [], []
        for number, line in enumerate(read_lines(path), start=1):
            if not line:
                continue
            where = f"{path}, row {number}"
            parts = line.split()
            try:
                y, x, label = float(parts[0]), float(parts[1]), parts[2]
            except (ValueError, IndexError):
                raise InputError(f"{where}: expected 'Y X class', got {line!r}") from None
            points.append((x + 0.5, y + 0.5))
            types.append(type_index(card, label, where))
            rows.append(where)
        yield point_sample(card, stem, image, np.array(points), types, rows)
