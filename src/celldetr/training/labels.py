"""What is known of the types of nuclei, put in the order of the boxes that are to learn it, and the losses of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from celldetr.data.dataset import SoftLabels
from celldetr.training.criterion import composition_loss, type_loss
from celldetr.training.processes import normaliser


@dataclass(frozen=True)
class Targets:
    """Labels of M boxes of a batch, image by image.

    Attributes:
        types: (M,) index of the type or -1.
        confidence: (M,) what each type weighs; None: 1.
        spots: (M,) the spot, counted over the batch, or -1; None: no image has any.
        compositions: (S, K) of all spots of the batch.
    """

    types: Tensor
    confidence: Tensor | None = None
    spots: Tensor | None = None
    compositions: Tensor | None = None

    def divisor(self) -> float:
        """What the type loss is divided by: see ``type_loss``."""
        known = self.types >= 0
        count = known.sum() if self.confidence is None else self.confidence[known].sum()
        return normaliser(float(count), self.types.device)

    def loss(self, logits: Tensor, weights: Tensor, divisor: float) -> Tensor:
        """``type_loss`` of logits (M, K)."""
        return type_loss(logits, self.types, weights, divisor, self.confidence)

    def spot_divisor(self) -> float:
        """What the composition loss is divided by: the spots with boxes in the batch, of all processes."""
        count = 0 if self.spots is None else len(self.spots[self.spots >= 0].unique())
        return normaliser(count, self.types.device)

    def spot_loss(self, logits: Tensor, divisor: float) -> Tensor:
        """``composition_loss`` of logits (M, K)."""
        if self.spots is None or self.compositions is None:
            return logits.sum() * 0
        return composition_loss(logits, self.spots, self.compositions, divisor)


@dataclass(frozen=True)
class Labels:
    """Labels of the nuclei of a batch: B tensors each, as ``SoftLabels``; spots are counted over the batch."""

    types: Sequence[Tensor]
    confidence: Sequence[Tensor] | None = None
    spots: Sequence[Tensor] | None = None
    compositions: Tensor | None = None

    @classmethod
    def of(cls, types: Sequence[Tensor], soft: SoftLabels | None) -> Self:
        """Types of B images, and what else is said of them."""
        if soft is None:
            return cls(types)
        counts = [len(each) for each in soft.compositions]
        if not any(counts):
            return cls(types, soft.confidence)
        starts = torch.tensor([0, *counts]).cumsum(0).tolist()
        pairs = zip(soft.spots, starts[:-1], strict=True)
        return cls(
            types,
            soft.confidence,
            [torch.where(spots >= 0, spots + start, spots) for spots, start in pairs],
            torch.cat(soft.compositions),
        )

    def take(self, nuclei: Sequence[Tensor]) -> Targets:
        """Labels of boxes: of each image, which nucleus each of its boxes is."""

        def pick(values: Sequence[Tensor]) -> Tensor:
            return torch.cat([each[own] for each, own in zip(values, nuclei, strict=True)])

        return Targets(
            pick(self.types),
            None if self.confidence is None else pick(self.confidence),
            None if self.spots is None else pick(self.spots),
            self.compositions,
        )
