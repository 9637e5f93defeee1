"""The images that a recipe names, as a run takes them: to train on, and to validate on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from celldetr.config import Recipe
from celldetr.data.lazy_dataset import LazySamples, areas, has_cells, in_pieces, join, type_counts
from celldetr.data.sample import Sample
from celldetr.data.sources import load_source
from celldetr.errors import InputError
from celldetr.training.hold_out import hold_out


@dataclass(frozen=True)
class TrainingData:
    """Images of a recipe at the model's resolution and with its types.

    Attributes:
        samples: to train on, and for each how often it is drawn (``weights``).
        held_out: to validate on.
        counts: labelled cells of each type in ``samples``.
        apart: how what is validated on was taken from the training data; "" where the recipe names it.
    """

    @cached_property
    def digest(self) -> str:
        """Of what chance draws from: images with their cells and types; sizes alone of those decoded later."""
        found = hashlib.sha256()
        for part in (self.samples, self.held_out):
            found.update(areas(part).tobytes())
            for sample in () if isinstance(part, LazySamples) else part:
                found.update(sample.name.encode("utf-8", "surrogateescape"))
                found.update(sample.boxes.tobytes())
                found.update(sample.types.tobytes())
        return found.hexdigest()

    samples: Sequence[Sample]
    weights: Sequence[float]
    held_out: Sequence[Sample]
    counts: list[int]
    apart: str = ""


def load_data(recipe: Recipe) -> TrainingData:
    """Read what a recipe names.

    Raises:
        InputError: wrong data, or none to train or to validate on; said now rather than after an hour of training.
    """
    types, mpp = recipe.model.types, recipe.model.mpp
    sources = [load_source(source, types, mpp) for source in recipe.train]
    samples = join(sources)
    weights = [spec.weight for spec, source in zip(recipe.train, sources, strict=True) for _ in range(len(source))]
    held_out = join([load_source(source, types, mpp) for source in recipe.validation])
    apart, settings = "", recipe.training
    if not recipe.validation and settings.hold_out and samples:
        if isinstance(samples, LazySamples):
            raise InputError(
                f"recipe {recipe.name!r}: cells for validation cannot be taken from a patch set; name its splits:"
                " train: [{card: SET, split: train}], validation: [{card: SET, split: val}]"
            )
        parts = hold_out(samples, weights, settings.hold_out, settings.seed, whole_images=settings.labels == "all")
        samples, weights, held_out, apart = parts.samples, parts.weights, parts.held_out, parts.what
    if settings.validation_images and len(held_out) > settings.validation_images:
        held_out = [held_out[i] for i in spread(len(held_out), settings.validation_images)]
    if recipe.model.coordinates == "image":  # such a network sees images of the size it was trained on
        held_out = in_pieces(held_out, recipe.augment.crop)
    for part, images in (("train", samples), ("validation", held_out)):
        if not has_cells(images):
            raise InputError(
                f"recipe {recipe.name!r}: no labelled cell in {part}; name a source that has some, or `data`"
            )
    counts = type_counts(samples, len(types)).tolist()
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
    return TrainingData(samples, weights, held_out, counts, apart)


def spread(count: int, most: int) -> list[int]:
    """``most`` indices, or fewer, spread evenly over ``count``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist() if count else []
