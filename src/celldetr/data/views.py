"""Augmented views of images for contrastive pretraining, as a function of (seed, index).

Two views of an image are two crops of nearly the same place, each augmented on its own. The two boxes of a cell have
the same identity (``Targets.identities``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from celldetr.config import AugmentConfig, ContrastiveConfig
from celldetr.data.augment import corner_at, crop, finish
from celldetr.data.dataset import Batch, TrainingImage, TrainingSet, as_tensors, collate
from celldetr.data.sample import Sample


class ViewSet(Dataset[tuple[TrainingImage, ...]]):
    """Random images in one or two views each, ``length`` of them; item i depends on ``seed`` and i alone."""

    def __init__(
        self,
        samples: Sequence[Sample],
        config: AugmentConfig,
        views: ContrastiveConfig,
        seed: int,
        length: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Arguments and errors as for ``TrainingSet``; ``views`` says how many views there are, and how far apart."""
        self._images = TrainingSet(samples, config, seed, length, weights)
        self.views = views

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[TrainingImage, ...]:
        rng, sample = self._images.draw(index)
        return tuple(as_tensors(view) for view in draw_views(sample, self._images.config, self.views, rng))


def draw_views(
    sample: Sample, config: AugmentConfig, views: ContrastiveConfig, rng: np.random.Generator
) -> tuple[Sample, ...]:
    """One or two random views of an image, samples of (crop, crop, 3) pixels.

    Args:
        sample: the source, at the resolution the model wants.
        config: augmentation; its crop and range of zoom are those of the first view.
        views: whether there is a second view, and how far from the first it may be.
        rng: the only source of randomness.
    """
    low, high = np.log(config.scale)
    zoom = float(np.exp(rng.uniform(low, high)))
    side = config.crop / zoom
    corner = corner_at(sample.image.shape, side, rng.uniform(size=2))
    first = finish(crop(sample, config.crop, zoom, corner), config, rng)
    if views.views == "released":
        return (first,)
    spread = np.log(views.zoom)
    other = zoom * float(np.exp(rng.uniform(-spread, spread)))
    away = rng.uniform(-views.shift, views.shift, size=2) * side
    corner = corner + (side - config.crop / other) / 2 + away
    return first, finish(crop(sample, config.crop, other, corner), config, rng)


def collate_views(items: Sequence[tuple[TrainingImage, ...]]) -> Batch:
    """Images in V views each -> a batch, the first view of each image, then the second of each."""
    return collate([image for view in zip(*items, strict=True) for image in view])
