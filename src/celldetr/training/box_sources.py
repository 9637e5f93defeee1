"""Whose boxes the representation decoder learns from: the modes of method section 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from celldetr.config import TrainConfig
from celldetr.training.box_noise import jitter_boxes

# noise(low, high, grow, share) of the mode positive_negative, and what its two noisy copies weigh beside the truth.
POSITIVE, NEGATIVE = (0.1, 0.3, 0.5, 0.8), (0.6, 0.9, 0.5, 1.0)
COPY_WEIGHT = 0.5


@dataclass(frozen=True)
class Source:
    """Boxes of one kind, of each of the B images of a batch.

    Attributes:
        boxes: B tensors (N_b, 4), cxcywh fractions, detached.
        nuclei: B tensors (N_b,), which nucleus of the image each box is; None: they hold none well enough to be of its
            type.
        weight: of their loss.
    """

    boxes: list[Tensor]
    nuclei: list[Tensor] | None
    weight: float = 1.0


def feed(
    config: TrainConfig,
    found: Sequence[tuple[Tensor, Tensor]],
    boxes: Sequence[Tensor],
    generators: Sequence[torch.Generator],
) -> list[Source]:
    """What a mode feeds; the kinds and their order depend on the mode alone.

    Args:
        config: with the mode and its noise.
        found: of each image the detected boxes (M, 4) that are a nucleus, detached, and which (M,); modes without
            detected boxes do not look at it.
        boxes, generators: as ``Supervised`` gets them.
    """
    true, known = list(boxes), [torch.arange(len(b), device=b.device) for b in boxes]

    def noisy(low: float, high: float, grow: float, share: float) -> list[Tensor]:
        pairs = zip(boxes, generators, strict=True)
        return [jitter_boxes(b.cpu(), low, high, grow, share, generator=chance).to(b.device) for b, chance in pairs]

    if config.mode == "parallel":
        return [Source(true, known)]
    if config.mode == "parallel_jittered":
        return [Source(noisy(*config.jitter), known)]
    if config.mode == "positive_negative":
        copies = Source(noisy(*POSITIVE), known, COPY_WEIGHT), Source(noisy(*NEGATIVE), None, COPY_WEIGHT)
        return [Source(true, known), *copies]
    detected = Source([own for own, _ in found], [nucleus for _, nucleus in found])
    if config.mode == "sequential":
        return [detected]
    half = 1 / 2  # two losses, each of all cells
    return [Source(detected.boxes, detected.nuclei, half), Source(noisy(*config.jitter), known, half)]
