"""Types of some nuclei of instance maps: a CSV file beside a card with ``image,nucleus,x,y,type``, more being ignored.

``nucleus`` is the number in the image's map, and x, y (pixels) lie in that nucleus's box, so that a file made for other
maps is noticed. Lines that begin with # are comments. Nuclei that are not in the file are of unknown type.
"""

from __future__ import annotations

import csv
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from celldetr.data.card import DatasetCard
from celldetr.data.readers.common import read_lines, type_index
from celldetr.data.sample import UNKNOWN
from celldetr.errors import InputError, near

COLUMNS = ("image", "nucleus", "x", "y", "type")


class NucleusTypes:
    """The types that a file gives to nuclei.

    Args:
        card: has the types.
        file: relative to the folder of the card's file, or absolute.

    Raises:
        InputError: no such file, a column is missing, or a row is not as described.
    """

    def __init__(self, card: DatasetCard, file: str) -> None:
        self._path = card.beside(file)
        self._of: dict[str, dict[int, tuple[float, float, int]]] = defaultdict(dict)
        lines = [(number, line) for number, line in enumerate(read_lines(self._path), 1) if line and line[0] != "#"]
        try:
            rows = list(csv.DictReader(line for _, line in lines))
        except csv.Error as error:
            raise InputError(f"{self._path}: not a CSV file ({error})") from None
        for name in COLUMNS:
            if rows and name not in rows[0]:
                raise InputError(f"{self._path}: no column {name!r} in its header; {near(name, filter(None, rows[0]))}")
        for (number, _), row in zip(lines[1:], rows, strict=True):
            where = f"{self._path}, row {number}"
            try:
                nucleus, x, y = int(row["nucleus"]), float(row["x"]), float(row["y"])
            except (TypeError, ValueError):
                raise InputError(f"{where}: nucleus, x and y must be numbers; got {list(row.values())}") from None
            of_image = self._of[row["image"]]
            if nucleus in of_image:
                raise InputError(f"{where}: nucleus {nucleus} of {row['image']!r} is there twice")
            of_image[nucleus] = x, y, type_index(card, row["type"], where)

    def of(self, image: str, numbers: NDArray[np.int64], boxes: NDArray[np.floating]) -> list[int]:
        """Type index, or ``UNKNOWN``, of each nucleus of an image.

        Args:
            image: its name, without suffix.
            numbers: (N,) in its map.
            boxes: (N, 4) xyxy, px.

        Raises:
            InputError: a nucleus of the file is not in the map, or elsewhere.
        """
        named = self._of.get(image, {})
        if missing := sorted(named.keys() - set(numbers.tolist())):
            raise InputError(f"{self._path}: the map of {image!r} has no nucleus {missing[0]}")
        types = []
        for number, (x0, y0, x1, y1) in zip(numbers.tolist(), boxes.tolist(), strict=True):
            x, y, index = named.get(number, (x0, y0, UNKNOWN))
            if not (x0 <= x <= x1 and y0 <= y <= y1):
                box = f"[{x0:g}, {y0:g}, {x1:g}, {y1:g}]"
                raise InputError(
                    f"{self._path}: nucleus {number} of {image!r} lies in {box}, not at ({x:g}, {y:g}); "
                    "the types were made for other instance maps"
                )
            types.append(index)
        return types
