"""The labelled cells of two splits without a common patient: types, and the image and patient of each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.data.card import DatasetCard
from celldetr.data.sample import UNKNOWN, Sample, image_digest, patients
from celldetr.data.sources import load_samples, map_types
from celldetr.errors import InputError
from celldetr.evaluation.bootstrap import units_of


@dataclass(frozen=True)
class Truth:
    """The N cells of known type of a split, image by image.

    Attributes:
        samples: the images, with those cells only.
        types: (N,) int64.
        images: (N,) index into ``samples``.
        units: (N,) what is drawn together: the patient where known, else the image; 0 ... U - 1.
    """

    samples: tuple[Sample, ...]
    types: NDArray[np.int64]
    images: NDArray[np.int64]
    units: NDArray[np.int64]

    @property
    def n_units(self) -> int:
        """Number of units."""
        return int(self.units.max(initial=-1)) + 1

    def digest(self) -> str:
        """SHA-256 of pixels, their size, boxes and types."""
        state = hashlib.sha256()
        for sample in self.samples:
            state.update(f"{sample.mpp:g}".encode())
            for array in (sample.image, sample.boxes, sample.types):
                state.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return state.hexdigest()


def truth_of(samples: Sequence[Sample]) -> Truth:
    """Samples without their cells of unknown type; images without a cell left are dropped."""
    kept = [keep_known(sample) for sample in samples if (sample.types != UNKNOWN).any()]
    sizes = [len(sample) for sample in kept]
    images = np.repeat(np.arange(len(kept)), sizes)
    units = np.asarray(units_of([sample.group for sample in kept]), np.int64)
    types = np.concatenate([np.zeros(0, np.int64), *(sample.types for sample in kept)])
    return Truth(tuple(kept), types, images, units[images])


def keep_known(sample: Sample) -> Sample:
    """A sample with the cells of known type only."""
    return sample.keep(sample.types != UNKNOWN)


def read_splits(
    card: DatasetCard, train: str, test: str, train_images: int | None, seed: int = 0, types: Sequence[str] = ()
) -> list[Truth]:
    """Both splits of a data set, training first.

    Args:
        card: the data set.
        train, test: names of its splits.
        train_images: use so many training images, drawn by ``seed``; None: all.
        seed: of that draw.
        types: cells of these alone, which are then all types there are; empty: of all.

    Raises:
        InputError: wrong data, an unknown type, fewer than two types, a cell in both splits.
    """
    if wrong := [name for name in types if name not in card.type_names]:
        raise InputError(f"`types={wrong[0]}`: dataset {card.name!r} has the types {', '.join(card.type_names)}")
    if train_images is not None and train_images < 1:
        raise InputError(f"`train_images={train_images}`: expected 1 or more")
    samples = load_samples(card, train)  # of a patch set those alone are decoded that are drawn
    chosen = np.sort(np.random.default_rng(seed).permutation(len(samples))[:train_images])
    truths = [
        truth_of(_of_types([samples[i] for i in chosen], types)),
        truth_of(_of_types(load_samples(card, test), types)),
    ]
    for name, truth in zip((train, test), truths, strict=True):
        if len(np.unique(truth.types)) < 2:
            raise InputError(
                f"dataset {card.name!r}, split {name!r}: has cells of {len(np.unique(truth.types))} known types, and "
                "telling types apart needs two or more"
            )
    check_apart(*truths)
    return truths


def _of_types(samples: Sequence[Sample], types: Sequence[str]) -> Sequence[Sample]:
    """Samples in which only cells of ``types`` have a known one; all as they are if it is empty."""
    return map_types(samples, types, None) if types else samples


def check_apart(train: Truth, test: Truth) -> None:
    """Refuse splits that share an image or a patient: what is measured then is memory.

    Raises:
        InputError: they do; the message names one.
    """
    groups = patients(train.samples) & patients(test.samples)
    pictures = {image_digest(sample.image) for sample in train.samples}
    same = [sample.name for sample in test.samples if image_digest(sample.image) in pictures]
    if groups or same:
        who = f"patient {min(groups)!r}" if groups else f"image {min(same)!r}"
        raise InputError(f"{who} is in the training and in the test split; choose two splits that share nobody")
