"""Stains of a brightfield image: optical density and its unmixing into haematoxylin, eosin and residual."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Optical density of haematoxylin, eosin and DAB per RGB channel (Ruifrok & Johnston 2001), a row a stain.
STAINS: NDArray[np.float32] = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=np.float32)
UNMIX: NDArray[np.float32] = np.linalg.inv(STAINS)
LUMA: NDArray[np.float32] = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # grey value of RGB (ITU-R BT.601)

# Natural logarithm; + 1 keeps black finite. One entry a pixel value: much faster than a logarithm a pixel.
_DENSITY: NDArray[np.float32] = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)


def optical_density(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Uint8 pixel values of any shape -> float32 optical density, 0 for white."""
    return _DENSITY[image]


def from_optical_density(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse of ``optical_density``, to float pixel values, not rounded or clipped."""
    return np.exp(-density) * 256 - 1


def haematoxylin(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, 3) uint8 RGB -> (H, W) float32 amount of haematoxylin, in units of its vector in ``STAINS``."""
    return optical_density(image) @ UNMIX[:, 0]
