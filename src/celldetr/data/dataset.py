"""Training crops as a function of (seed, index), so that a run that is resumed sees what it would have seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from celldetr.boxes import normalise_boxes
from celldetr.config import AugmentConfig
from celldetr.data.augment import augment
from celldetr.data.lazy_dataset import areas, typed_cells
from celldetr.data.sample import Sample
from celldetr.errors import InputError


class Crop(NamedTuple):
    """One training image.

    Attributes:
        image: (3, H, W) uint8 RGB.
        boxes: (N, 4) float32, normalised cxcywh.
        types: (N,) int64, or ``UNKNOWN``.
        confidence: (N,) float32, what each cell's type weighs: 1 where the sample does not say.
        spots: (N,) int64, the spot of each nucleus, or -1.
        compositions: (S, K) float32, share of each type in each spot.
    """

    image: Tensor
    boxes: Tensor
    types: Tensor
    confidence: Tensor
    spots: Tensor
    compositions: Tensor


class SoftLabels(NamedTuple):
    """What a batch says of types beside the types.

    Attributes:
        confidence: B tensors (N_b,) float32, what each cell's type weighs.
        spots: B tensors (N_b,) int64, the spot of each nucleus in its image, or -1.
        compositions: B tensors (S_b, K) float32, share of each type in each spot.
    """

    confidence: list[Tensor]
    spots: list[Tensor]
    compositions: list[Tensor]


class Batch(NamedTuple):
    """Crops of one size.

    Attributes:
        images: (B, 3, H, W) uint8 RGB.
        boxes: B tensors (N_b, 4) float32, normalised cxcywh.
        types: B tensors (N_b,) int64, or ``UNKNOWN``.
        soft: confidences and spots; None where all cells weigh 1 and no image has spots.
    """

    images: Tensor
    boxes: list[Tensor]
    types: list[Tensor]
    soft: SoftLabels | None = None


class TrainingSet(Dataset[Crop]):
    """Endlessly many crops, of which ``length`` are counted; crop i depends on ``seed`` and i alone.

    Args:
        samples: the labelled images, at the model's mpp and with its types; ``LazySamples`` are decoded one a crop.
        config: augmentation.
        seed: of all chance.
        length: number of crops, steps x batch size.
        weights: for each sample, how often it is drawn relative to its area; default: all 1.
        around_cells: draw cells of known type, not places: every crop has one, and images without are not drawn.

    Raises:
        InputError: no sample, or weights that do not fit.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        config: AugmentConfig,
        seed: int,
        length: int,
        weights: Sequence[float] | None = None,
        *,
        around_cells: bool = False,
    ) -> None:
        if not samples:
            raise InputError("no training image: the recipe's train sources are empty")
        self._around_cells = around_cells
        area = (typed_cells(samples) if around_cells else areas(samples)).astype(np.float64)
        share = area * (1.0 if weights is None else np.asarray(weights, dtype=np.float64))
        if share.shape != area.shape or not (share >= 0).all() or not share.sum() > 0:
            raise InputError(
                f"weights of {len(samples)} training images must be as many numbers above 0, got {weights}"
            )
        self.samples = samples
        self.config = config
        self.seed = seed
        self.length = length
        self._cumulative = np.cumsum(share / share.sum())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Crop:
        rng, chosen = self.draw(index)
        sample, around = self.samples[chosen], None
        if self._around_cells:
            points = sample.points[sample.types >= 0]
            around = points[rng.integers(len(points))]
        return as_crop(augment(sample, self.config, rng, around))

    def draw(self, index: int) -> tuple[np.random.Generator, int]:
        """The chance of a crop, and the place of its sample among the samples."""
        if not 0 <= index < self.length:
            raise IndexError(f"crop {index} of {self.length}")
        rng = np.random.default_rng([self.seed, index])
        chosen = min(int(np.searchsorted(self._cumulative, rng.uniform(), side="right")), len(self.samples) - 1)
        return rng, chosen


class Told(Dataset[Any]):
    """Images of which one that cannot be read is its error: raised in a worker, it would drown in a traceback."""

    def __init__(self, images: Any) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._images[index]
        except InputError as error:
            return error


def collate_told(together: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> Any:
    """What ``together`` makes of items of ``Told``, or the first error among them."""
    return next((item for item in items if isinstance(item, InputError)), None) or together(items)


def as_crop(sample: Sample) -> Crop:
    """A sample as tensors: channels first, boxes normalised."""
    height, width = sample.image.shape[:2]
    image = torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1)))
    boxes = normalise_boxes(torch.from_numpy(np.ascontiguousarray(sample.boxes)), width, height)
    types = torch.from_numpy(np.ascontiguousarray(sample.types))
    sure, spots = sample.confidence, sample.spots
    confidence = torch.ones(len(types)) if sure is None else torch.from_numpy(sure.astype(np.float32))
    if spots is None:
        return Crop(image, boxes, types, confidence, torch.full_like(types, -1), torch.zeros(0, len(sample.type_names)))
    return Crop(image, boxes, types, confidence, *map(torch.from_numpy, (spots.of.copy(), spots.compositions.copy())))


def collate(crops: Sequence[Crop]) -> Batch:
    """Crops of one size -> a batch; the ``collate_fn`` of a ``DataLoader``."""
    images = torch.stack([crop.image for crop in crops])
    return Batch(images, [crop.boxes for crop in crops], [crop.types for crop in crops], _soft(crops))


def _soft(crops: Sequence[Crop]) -> SoftLabels | None:
    if all(bool((crop.confidence == 1).all()) and not len(crop.compositions) for crop in crops):
        return None
    parts = zip(*((crop.confidence, crop.spots, crop.compositions) for crop in crops), strict=True)
    return SoftLabels(*map(list, parts))
