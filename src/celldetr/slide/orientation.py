"""Orientation of stored pixels: EXIF and TIFF (6.0, tag 274) can say that viewers must turn or mirror a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ORIENTATION = 274  # tag of EXIF and TIFF


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """(H, W, 3) as it is seen, of what is stored in an orientation (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def as_stored(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The inverse of ``upright``."""
    return upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))
