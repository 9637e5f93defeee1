"""Targets of images, from what a test says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from celldetr.data.dataset import Batch, Targets, no_outlines


def targets(
    boxes: Tensor,
    types: Tensor | None = None,
    *,
    spots: Tensor | None = None,
    compositions: Tensor | None = None,
    identities: Tensor | None = None,
    outlines: Tensor | None = None,
) -> Targets:
    """Targets of one image: by default of unknown type, certain, in no spot, numbered in order and without masks."""
    n = len(boxes)
    return Targets(
        boxes,
        torch.full((n,), -1) if types is None else types,
        torch.ones(n),
        torch.full((n,), -1) if spots is None else spots,
        torch.zeros(0, 2) if compositions is None else compositions,
        torch.arange(n) if identities is None else identities,
        no_outlines(n) if outlines is None else outlines,
    )


def with_types(batch: Batch, types: Sequence[Tensor]) -> Batch:
    """The same batch with other types."""
    pairs = zip(batch.targets, types, strict=True)
    return Batch(batch.images, [replace(each, types=kinds) for each, kinds in pairs])


def without_nuclei(batch: Batch) -> Batch:
    """The same images without a nucleus."""
    return Batch(batch.images, [each.take(torch.zeros(0, dtype=torch.long)) for each in batch.targets])
