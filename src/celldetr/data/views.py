"""Views of images for contrastive pretraining, as a function of (seed, index), with the identity of every cell.

Two views of an image are two crops of nearly the same place, each turned, stained, coloured and blurred on its own. A
cell's two boxes are found again by the cell's identity, which travels through the geometry with its box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from celldetr.config import AugmentConfig, ContrastiveConfig
from celldetr.data.augment import corner_at, crop, orient, place_at, restyle
from celldetr.data.dataset import Crop, TrainingSet, as_crop
from celldetr.data.sample import Sample

MOST_CELLS = 2**24  # of an image; an identity is the image's place among the images, times this, plus the cell's place


class ViewBatch(NamedTuple):
    """Views of one size: the first of each image, then the second of each, if there are two.

    Attributes:
        images: (V * B, 3, H, W) uint8 RGB.
        boxes: V * B tensors (N, 4) float32, normalised cxcywh.
        cells: V * B tensors (N,) int64, which cell each box is of; the same number is the same cell, in all batches.
    """

    images: Tensor
    boxes: list[Tensor]
    cells: list[Tensor]


class ViewSet(Dataset[tuple[Crop, ...]]):
    """Endlessly many images in one or two views; item i depends on ``seed`` and i alone.

    The ``types`` of its crops are identities of cells (``ViewBatch.cells``).
    """

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

    def __getitem__(self, index: int) -> tuple[Crop, ...]:
        rng, chosen = self._images.draw(index)
        sample = self._images.samples[chosen]
        named = replace(sample, types=np.arange(len(sample), dtype=np.int64) + chosen * MOST_CELLS)
        return tuple(as_crop(view) for view in draw_views(named, self._images.config, self.views, rng))


def draw_views(
    sample: Sample, config: AugmentConfig, views: ContrastiveConfig, rng: np.random.Generator
) -> tuple[Sample, ...]:
    """One or two random views of an image.

    Args:
        sample: with the identities of its cells in place of their types.
        config: what may happen to a view; its crop and range of zoom are those of the first.
        views: whether there is a second, and how far from the first it may be.
        rng: the only source of chance.

    Returns:
        one sample of (crop, crop, 3) pixels, or two; each with the cells whose point is in it.
    """
    low, high = np.log(config.scale)
    zoom = float(np.exp(rng.uniform(low, high)))
    place = rng.uniform(size=2)
    first = _view(sample, config, zoom, place, rng)
    if views.views == "released":
        return (first,)
    spread = np.log(views.zoom)
    other = zoom * float(np.exp(rng.uniform(-spread, spread)))
    side, other_side = config.crop / zoom, config.crop / other
    away = rng.uniform(-views.shift, views.shift, size=2) * side
    centre = corner_at(sample.image.shape, side, place) + side / 2 + away
    where = place_at(sample.image.shape, other_side, centre - other_side / 2)
    return first, _view(sample, config, other, where, rng)


def _view(
    sample: Sample, config: AugmentConfig, zoom: float, place: NDArray[np.float64], rng: np.random.Generator
) -> Sample:
    out = crop(sample, config.crop, zoom, place)
    if config.orientations:
        out = orient(out, int(rng.integers(8)))
    return replace(out, image=restyle(out.image, config, rng))


def collate_views(items: Sequence[tuple[Crop, ...]]) -> ViewBatch:
    """Images in V views -> a batch; the ``collate_fn`` of a ``DataLoader``."""
    crops = [crop for view in zip(*items, strict=True) for crop in view]
    return ViewBatch(torch.stack([c.image for c in crops]), [c.boxes for c in crops], [c.types for c in crops])
