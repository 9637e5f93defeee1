"""Training and validation data of a recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from celldetr.config import Recipe
from celldetr.data.lazy_dataset import in_pieces
from celldetr.data.overlap import record
from celldetr.data.sample import LazySamples, Sample, areas, has_cells, type_counts
from celldetr.data.sources import join, load_source
from celldetr.errors import InputError
from celldetr.training.hold_out import hold_out


@dataclass(frozen=True)
class TrainingData:
    """Images of a recipe at the model's resolution and with its types.

    Attributes:
        samples: to train on, and for each how often it is drawn (``weights``).
        held_out: to validate on.
        counts: labelled cells of each type in ``samples``.
        drawn: the same, each cell counted as often as its image is drawn: how frequent the types are in training.
        seen: of each source of the recipe the images and patients, for the model's card.
        apart: how ``held_out`` was split off the training data; "" where the recipe names validation data.
    """

    samples: Sequence[Sample]
    weights: Sequence[float]
    held_out: Sequence[Sample]
    counts: list[int]
    drawn: list[float]
    seen: tuple[dict[str, list[str]], ...] = ()
    apart: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of images, cells and types, by which a resumed run sees the same crops; of lazy samples the sizes."""
        digest = hashlib.sha256()
        for part in (self.samples, self.held_out):
            digest.update(areas(part).tobytes())
            for sample in () if isinstance(part, LazySamples) else part:
                digest.update(sample.name.encode("utf-8", "surrogateescape"))
                digest.update(sample.boxes.tobytes())
                digest.update(sample.types.tobytes())
        return digest.hexdigest()


def load_data(recipe: Recipe) -> TrainingData:
    """Read the data of a recipe.

    Raises:
        InputError: wrong data, or none to train or to validate on.
    """
    types, mpp = recipe.model.types, recipe.model.mpp
    sources = [load_source(source, types, mpp) for source in recipe.train]
    samples = join(sources)
    parts = [(spec.weight, source) for spec, source in zip(recipe.train, sources, strict=True)]
    weights = [weight for weight, source in parts for _ in range(len(source))]
    held_out = join([load_source(source, types, mpp) for source in recipe.validation])
    apart, settings = "", recipe.training
    if not recipe.validation and settings.hold_out and samples:
        if isinstance(samples, LazySamples):
            raise InputError(
                f"recipe {recipe.name!r}: cells for validation cannot be taken from a patch set; name its splits:"
                " train: [{card: SET, split: train}], validation: [{card: SET, split: val}]"
            )
        split = hold_out(samples, weights, settings.hold_out, settings.seed, whole_images=settings.labels == "all")
        samples, weights, held_out, apart = split.samples, split.weights, split.held_out, split.apart
        parts = [(weight, [sample]) for weight, sample in zip(weights, samples, strict=True)]
    if settings.validation_images and len(held_out) > settings.validation_images:
        held_out = [held_out[i] for i in spread(len(held_out), settings.validation_images)]
    if recipe.model.coordinates == "image":  # such a network sees images of the size it was trained on
        held_out = in_pieces(held_out, recipe.augment.crop)
    for part, images in (("train", samples), ("validation", held_out)):
        if not has_cells(images):
            raise InputError(
                f"recipe {recipe.name!r}: no labelled cell in {part}; name a source that has some, or `data`"
            )
    by_part = [type_counts(part, len(types)) for _, part in parts]
    counts = np.sum(by_part, axis=0).tolist()
    drawn = np.sum([weight * each for (weight, _), each in zip(parts, by_part, strict=True)], axis=0).tolist()
    if settings.labels == "some" and not sum(counts) and not settings.w_composition:
        raise InputError(
            f"recipe {recipe.name!r}: no cell of a type that the model has ({', '.join(types)}) in train, and nothing"
            " but types is learned; name the types with model.types, or say which is which"
        )
    if settings.labels == "some" and not settings.w_composition and not type_counts(held_out, len(types)).any():
        raise InputError(
            f"recipe {recipe.name!r}: no cell of a type that the model has ({', '.join(types)}) in validation, which"
            " could not tell a good step from a bad one; label some there, or leave validation to training.hold_out"
        )
    return TrainingData(samples, weights, held_out, counts, drawn, tuple(map(record, sources)), apart)


def spread(count: int, most: int) -> list[int]:
    """``most`` indices, or fewer, spread evenly over ``count``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist() if count else []
