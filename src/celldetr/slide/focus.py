"""Sharpness of an image of tissue, measured against the image itself.

The variance of the Laplacian, which is often used, depends on how much there is to see: a sharp image of plain stroma
has less of it than a blurred one full of nuclei (docs/reports/pretraining.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from celldetr.stain import LUMA

FINE_UM, COARSE_UM = 0.5, 2.0  # sigma: detail below the first is lost first; between both are edges of nuclei


def sharpness(image: NDArray[np.uint8], mpp: float) -> float:
    """Energy of detail finer than ``FINE_UM``, relative to that between ``FINE_UM`` and ``COARSE_UM``; 0 of nothing.

    Does not depend on contrast, and little on content. ``image`` is (H, W, 3) uint8 RGB.
    """
    from scipy import ndimage

    grey = image.astype(np.float32) @ LUMA
    fine, coarse = (ndimage.gaussian_filter(grey, sigma / mpp) for sigma in (FINE_UM, COARSE_UM))
    between = float(np.square(fine - coarse).mean())
    return float(np.square(grey - fine).mean()) / between if between > 0 else 0.0
