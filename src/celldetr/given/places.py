"""Whether given cells lie on nuclei, by the stain around some of them: cells of another program may count otherwise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from celldetr.data.label_checks import FEW_POINTS, NOWHERE, POINTS, Places, ways
from celldetr.errors import InputError
from celldetr.given.cells import GivenCells
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import DamageError
from celldetr.stain import haematoxylin

LOOKED_AT = 60  # cells
UNSURE = 1.0  # darkness below which other ways are tried: of published sets 0.6 to 3.6, and turned over at most 0.7
WINDOW_UM, PX, MIDDLE = 32.0, 64, 2  # side of what is read around each, in um and px, and half that of its middle, px


def check_places(given: GivenCells, reader: SlideReader) -> list[str]:
    """Look at the slide under some cells -> a sentence if it is no darker there than around them, or is elsewhere.

    Raises:
        InputError: they lie on nuclei only if their coordinates are read in another way.
    """
    if not len(given):
        return []
    chosen = given.take(np.unique(np.linspace(0, len(given) - 1, LOOKED_AT).round().astype(np.intp)))
    points, half = chosen.centres, (chosen.boxes[:, 2:] - chosen.boxes[:, :2]) / 2
    own = _darkness(points, reader)
    if own >= UNSURE:
        return []
    size = np.array([reader.width, reader.height], np.float64)
    read_otherwise = {text: way(points, size, half) for text, way in ways(reader.mpp).items()}
    inside = {text: moved for text, moved in read_otherwise.items() if ((moved >= -1) & (moved <= size + 1)).all()}
    others = {text: _darkness(moved, reader) for text, moved in inside.items()}
    places = Places(len(points), own, others)
    if places.is_wrong:
        raise InputError(
            f"the cells do not lie on nuclei of {reader.file or reader.name}, but would if {places.way}; give them in"
            " level-0 pixels, (x, y) from the upper left corner"
        )
    if places.hint:
        return [f"the cells would lie on darker places if {places.hint}; are they in level-0 pixels of this slide?"]
    if own >= (NOWHERE if len(given) >= POINTS else 0.0) or len(given) < FEW_POINTS:
        return []
    return ["the cells lie on no darker places than chance; are they of this slide, and in its level-0 pixels?"]


def _darkness(points: NDArray[np.float64], reader: SlideReader) -> float:
    """Haematoxylin at points (N, 2), in deviations of what is around each, in the mean."""
    side = WINDOW_UM / np.array([reader.mpp_x, reader.mpp_y])
    middle = slice(PX // 2 - MIDDLE, PX // 2 + MIDDLE)
    found = []
    for x, y in points - side / 2:
        try:
            stain = haematoxylin(reader.read_region(x, y, side[0], side[1], PX, PX))
        except DamageError:
            continue
        found.append(float(stain[middle, middle].mean() - stain.mean()) / max(float(stain.std()), 1e-6))
    return float(np.mean(found)) if found else 0.0
