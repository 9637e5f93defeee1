"""Sine encodings of where things are.

Two forms. ``encode_fractions`` is DETR's: coordinates in [0, 1] of the image, wavelengths from the image up.
``encode_pixels`` measures in pixels, with wavelengths from half a nucleus to several tiles, so that neighbours a few
pixels apart differ clearly and a tile of any size is encoded alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHORTEST_PX, LONGEST_PX = 8.0, 1024.0


def _interleave(phase: Tensor) -> Tensor:
    """(..., n) phases, equal in pairs -> (..., n): sine at even, cosine at odd places."""
    return torch.stack([phase[..., 0::2].sin(), phase[..., 1::2].cos()], dim=-1).flatten(-2)


def encode_fractions(x: Tensor, features: int, temperature: float = 10000.0) -> Tensor:
    """DETR's encoding (Carion et al., ECCV 2020) of fractions of the image.

    Args:
        x: (...) coordinates, 0 to 1.
        features: even number n of features.

    Returns:
        (..., n)
    """
    exponent = 2 * torch.div(torch.arange(features, device=x.device), 2, rounding_mode="floor") / features
    return _interleave(2 * math.pi * x[..., None] / temperature**exponent)


def encode_pixels(x: Tensor, features: int) -> Tensor:
    """Sine encoding of lengths in pixels, wavelengths spaced geometrically from 8 to 1024 px.

    Args:
        x: (...) coordinates or sizes, in pixels.
        features: even number n of features.

    Returns:
        (..., n)
    """
    steps = max(features // 2 - 1, 1)
    ratio = torch.arange(features // 2, device=x.device).repeat_interleave(2) / steps
    wavelength = SHORTEST_PX * (LONGEST_PX / SHORTEST_PX) ** ratio
    return _interleave(2 * math.pi * x[..., None] / wavelength)
