"""PyTorch dataset of training crops, the targets of a crop, and the collate function.

A crop is a function of (seed, index), so that a resumed run sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from celldetr.boxes import normalise_boxes
from celldetr.config import AugmentConfig
from celldetr.data.augment import augment
from celldetr.data.sample import Sample, areas, cell_counts
from celldetr.errors import InputError
from celldetr.outlines import RADII

PER_NUCLEUS = ("boxes", "types", "confidence", "spots", "identities", "outlines")  # attributes of ``Targets``
MOST_CELLS = 2**24  # of an image; an identity is the image's place among the images, times this, plus the cell's place


@dataclass(frozen=True)
class Targets:
    """Ground truth of the N nuclei of one image, or of a whole batch (``concatenate``).

    Attributes:
        boxes: (N, 4) float32, cxcywh, fractions of the image.
        types: (N,) int64, index of the cell type, or ``UNKNOWN`` (-1).
        confidence: (N,) float32 in [0, 1], weight of each cell in the type loss; 1 where the sample does not say.
        spots: (N,) int64, row of ``compositions`` of the spot that a nucleus is in, or ``NO_SPOT`` (-1).
        compositions: (S, K) float32, share of each of the K types in each of the S spots; rows sum to 1.
        identities: (N,) int64, number of the cell, equal in all crops of the cell and different between cells.
        outlines: (N, ``RADII``, 2) float32, points on the border, fractions of the image; NaN where there is no mask.
    """

    boxes: Tensor
    types: Tensor
    confidence: Tensor
    spots: Tensor
    compositions: Tensor
    identities: Tensor
    outlines: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device) -> Targets:
        """The same targets on a device."""
        return Targets(*(getattr(self, each.name).to(device, non_blocking=True) for each in fields(self)))

    def pin_memory(self) -> Targets:
        """The same targets in page-locked memory; called by the ``DataLoader``."""
        return Targets(*(getattr(self, each.name).pin_memory() for each in fields(self)))

    def take(self, index: Tensor) -> Targets:
        """The nuclei at ``index``, numbers (M,) or a mask (N,)."""
        taken = {name: getattr(self, name)[index] for name in PER_NUCLEUS}
        return Targets(compositions=self.compositions, **taken)


def concatenate(targets: Sequence[Targets]) -> Targets:
    """Targets of several images as one, image by image; ``spots`` then index the compositions of all images."""
    starts = accumulate((len(each.compositions) for each in targets), initial=0)
    moved = [
        replace(each, spots=torch.where(each.spots >= 0, each.spots + start, each.spots))
        for each, start in zip(targets, starts, strict=False)
    ]
    return Targets(*(torch.cat([getattr(each, part.name) for each in moved]) for part in fields(Targets)))


@dataclass(frozen=True)
class TrainingImage:
    """One crop: (3, H, W) uint8 RGB and its nuclei."""

    image: Tensor
    targets: Targets


@dataclass(frozen=True)
class Batch:
    """Crops of one size.

    Attributes:
        images: (B, 3, H, W) uint8 RGB; in contrastive training (V * B, 3, H, W), the first view of each image first.
        targets: one for each image.
    """

    images: Tensor
    targets: list[Targets]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(self.images.to(device, non_blocking=True), [each.to(device) for each in self.targets])

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; called by the ``DataLoader``."""
        return Batch(self.images.pin_memory(), [each.pin_memory() for each in self.targets])


class TrainingSet(Dataset[TrainingImage]):
    """Random crops of labelled images, ``length`` of them; crop i depends on ``seed`` and i alone.

    Args:
        samples: the labelled images, at the model's mpp and with its types.
        config: augmentation.
        seed: of all randomness.
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
        size = cell_counts(samples)[:, :-1].sum(axis=1).astype(np.float64) if around_cells else areas(samples)
        share = size * (1.0 if weights is None else np.asarray(weights, dtype=np.float64))
        if share.shape != size.shape or not (share >= 0).all() or not share.sum() > 0:
            raise InputError(
                f"weights of {len(samples)} training images must be as many numbers above 0, got {weights}"
            )
        self.samples, self.config, self.seed, self.length = samples, config, seed, length
        self._cumulative = np.cumsum(share / share.sum())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TrainingImage:
        rng, sample = self.draw(index)
        around = None
        if self._around_cells:
            points = sample.points[sample.types >= 0]
            around = points[rng.integers(len(points))]
        return as_tensors(augment(sample, self.config, rng, around))

    def draw(self, index: int) -> tuple[np.random.Generator, Sample]:
        """Random generator of a crop, and its sample, with identities."""
        if not 0 <= index < self.length:
            raise IndexError(f"crop {index} of {self.length}")
        rng = np.random.default_rng([self.seed, index])
        chosen = min(int(np.searchsorted(self._cumulative, rng.uniform(), side="right")), len(self.samples) - 1)
        sample = self.samples[chosen]
        return rng, replace(sample, identities=np.arange(len(sample), dtype=np.int64) + chosen * MOST_CELLS)


def no_outlines(nuclei: int) -> Tensor:
    """(N, ``RADII``, 2) outlines of nuclei without masks."""
    return torch.full((nuclei, RADII, 2), torch.nan)


def as_tensors(sample: Sample) -> TrainingImage:
    """Convert a sample to tensors: channels first, boxes normalised, defaults for what it does not have."""
    height, width = sample.image.shape[:2]
    n, spots = len(sample), sample.spots
    targets = Targets(
        boxes=normalise_boxes(_tensor(sample.boxes), width, height),
        types=_tensor(sample.types),
        confidence=torch.ones(n) if sample.confidence is None else _tensor(sample.confidence.astype(np.float32)),
        spots=torch.full((n,), -1) if spots is None else _tensor(spots.of),
        compositions=torch.zeros(0, len(sample.type_names)) if spots is None else _tensor(spots.compositions),
        identities=torch.arange(n) if sample.identities is None else _tensor(sample.identities),
        outlines=no_outlines(n)
        if sample.outlines is None
        else _tensor(sample.outlines) / torch.tensor([width, height]),
    )
    return TrainingImage(_tensor(sample.image.transpose(2, 0, 1)), targets)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, order="C"))  # a copy: samples may be views of read-only memory


def collate(images: Sequence[TrainingImage]) -> Batch:
    """Crops of one size -> a batch; the ``collate_fn`` of the ``DataLoader``."""
    return Batch(torch.stack([each.image for each in images]), [each.targets for each in images])
