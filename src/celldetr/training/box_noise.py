"""Boxes as inexact as a detector's: what the representation decoder learns from besides the truth.

``noise(low, high, grow, share)`` of CellDETR (arXiv 2606.29463, supplement): sizes and centres change by a random
fraction of the box itself, so that a lymphocyte and a megakaryocyte are displaced alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from celldetr.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh


def jitter_boxes(
    boxes: Tensor,
    low: float,
    high: float,
    grow: float = 0.5,
    share: float = 1.0,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Perturb a random share of boxes.

    Args:
        boxes: (..., 4) cxcywh, fractions of the image.
        low, high: bounds of the fraction, 0 <= low <= high < 1. Sides are multiplied by 1 +- U(low, high), each on its
            own; the centre moves by +- U(low, high) of half the side, so it stays inside the box it came from.
        grow: probability that a side grows rather than shrinks.
        share: probability that a box is perturbed at all.
        generator: source of randomness, on the device of ``boxes``.

    Returns:
        (..., 4), corners clipped to the image; boxes left alone are returned bit for bit.

    Raises:
        ValueError: a bound or probability out of range.
    """
    if not 0 <= low <= high < 1:
        raise ValueError(f"noise bounds must satisfy 0 <= low <= high < 1, got low={low}, high={high}")
    for name, probability in (("grow", grow), ("share", share)):
        if not 0 <= probability <= 1:
            raise ValueError(f"{name} is a probability, got {probability}")
    # Columns: how far x, y, w, h change; the sign of each; whether the box changes (column 0 of the third draw).
    draw = torch.rand((3, *boxes.shape), generator=generator, device=boxes.device, dtype=boxes.dtype)
    fraction = low + (high - low) * draw[0]
    positive = torch.tensor([0.5, 0.5, grow, grow], device=boxes.device, dtype=boxes.dtype)
    fraction = torch.where(draw[1] < positive, fraction, -fraction)
    centre, side = boxes.split(2, dim=-1)
    move, scale = fraction.split(2, dim=-1)
    moved = torch.cat([centre + move * side / 2, side * (1 + scale)], dim=-1)
    clipped = xyxy_to_cxcywh(cxcywh_to_xyxy(moved).clamp(0, 1))
    return torch.where(draw[2, ..., :1] < share, clipped, boxes)
