"""Boxes that the representation decoder is trained on: true, perturbed or detected, by ``training.mode``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert

from celldetr.config import TrainConfig
from celldetr.data.dataset import Targets

# noise(low, high, grow, share) of the mode positive_negative, and the weight of its two perturbed copies.
POSITIVE, NEGATIVE = (0.1, 0.3, 0.5, 0.8), (0.6, 0.9, 0.5, 1.0)
COPY_WEIGHT = 0.5

MatchedBoxes = Sequence[tuple[Tensor, Tensor]]  # of each image boxes (M, 4) and which nucleus each is, (M,)


@dataclass(frozen=True)
class BoxSource:
    """Boxes of one kind, of each of the B images of a batch.

    Attributes:
        boxes: B tensors (N_b, 4), cxcywh fractions, detached.
        nuclei: B tensors (N_b,), which nucleus of the image each box is; None: background.
        weight: of their loss.
    """

    boxes: list[Tensor]
    nuclei: list[Tensor] | None
    weight: float = 1.0


def box_sources(
    config: TrainConfig,
    detected: MatchedBoxes,
    targets: Sequence[Targets],
    generators: Sequence[torch.Generator],
) -> list[BoxSource]:
    """Boxes of a training step; the kinds and their order depend on the mode alone.

    Args:
        config: with the mode and its noise.
        detected: boxes of the detector that were matched to a nucleus; not used by modes without detected boxes.
        targets: B.
        generators: B sources of randomness, on the CPU.
    """
    true = [each.boxes for each in targets]
    nuclei = [torch.arange(len(each), device=each.boxes.device) for each in targets]

    def noisy(low: float, high: float, grow: float, share: float) -> list[Tensor]:
        pairs = zip(true, generators, strict=True)
        return [jitter_boxes(b.cpu(), low, high, grow, share, generator=rng).to(b.device) for b, rng in pairs]

    if config.mode == "parallel":
        return [BoxSource(true, nuclei)]
    if config.mode == "parallel_jittered":
        return [BoxSource(noisy(*config.jitter), nuclei)]
    if config.mode == "positive_negative":
        copies = BoxSource(noisy(*POSITIVE), nuclei, COPY_WEIGHT), BoxSource(noisy(*NEGATIVE), None, COPY_WEIGHT)
        return [BoxSource(true, nuclei), *copies]
    boxes, of = [each for each, _ in detected], [nucleus for _, nucleus in detected]
    if config.mode == "sequential":
        return [BoxSource(boxes, of)]
    half = 1 / 2  # two losses, each of all cells
    return [BoxSource(boxes, of, half), BoxSource(noisy(*config.jitter), nuclei, half)]


def jitter_boxes(
    boxes: Tensor,
    low: float,
    high: float,
    grow: float = 0.5,
    share: float = 1.0,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Perturb a random share of boxes: ``noise`` of CellDETR (arXiv 2606.29463, supplement), relative to each box.

    Args:
        boxes: (..., 4) cxcywh, fractions of the image.
        low, high: bounds of the fraction, 0 <= low <= high < 1. Sides are multiplied by 1 +- U(low, high), each on its
            own; the centre moves by +- U(low, high) of half the side, so it stays inside the box it came from.
        grow: probability that a side grows rather than shrinks.
        share: probability that a box is perturbed at all.
        generator: source of randomness, on the device of ``boxes``.

    Returns:
        (..., 4), corners clipped to the image; boxes that are not perturbed are returned bit for bit.
    """
    # Columns: how far x, y, w, h change; the sign of each; whether the box changes (column 0 of the third draw).
    draw = torch.rand((3, *boxes.shape), generator=generator, device=boxes.device, dtype=boxes.dtype)
    fraction = low + (high - low) * draw[0]
    positive = torch.tensor([0.5, 0.5, grow, grow], device=boxes.device, dtype=boxes.dtype)
    fraction = torch.where(draw[1] < positive, fraction, -fraction)
    centre, side = boxes.split(2, dim=-1)
    move, scale = fraction.split(2, dim=-1)
    moved = torch.cat([centre + move * side / 2, side * (1 + scale)], dim=-1)
    clipped = box_convert(box_convert(moved, "cxcywh", "xyxy").clamp(0, 1), "xyxy", "cxcywh")
    return torch.where(draw[2, ..., :1] < share, clipped, boxes)
