"""Orientation of stored pixels: EXIF and TIFF (6.0, tag 274) can say that viewers must turn or mirror a picture."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

ORIENTATION = 274  # tag of EXIF and TIFF
Pixels = TypeVar("Pixels", bound=NDArray)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """(H, W, ...) as it is seen, of what is stored in an orientation (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)  # type: ignore[assignment]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]  # type: ignore[assignment]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]  # type: ignore[assignment]
    return np.ascontiguousarray(pixels)  # type: ignore[return-value]


def as_stored(pixels: Pixels, orientation: int) -> Pixels:
    """The inverse of ``upright``."""
    return upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))
