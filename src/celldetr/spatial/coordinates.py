"""Micrometres of the image, in which cells and nuclei are compared, from those of the instrument."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mpp = float | tuple[float, float]  # micrometres per level-0 pixel, or along x and y where pixels are not square


def pixel_scale(mpp: Mpp) -> Floats:
    """(2,) micrometres per pixel along x and y."""
    return np.broadcast_to(np.asarray(mpp, dtype=np.float64), (2,))


def in_image_um(to_image: Floats, mpp: Mpp) -> Floats:
    """(3, 3) from micrometres of the section to micrometres of the image: ``to_image``, then times ``mpp``."""
    return np.diag([*pixel_scale(mpp), 1.0]) @ to_image
