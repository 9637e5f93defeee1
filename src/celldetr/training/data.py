"""Training and validation data of a recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from celldetr.config import Recipe
from celldetr.data.sample import LazySamples, Sample, areas, cell_counts, join, patients
from celldetr.data.sources import Shapes, load_source
from celldetr.errors import InputError
from celldetr.training.hold_out import hold_out


@dataclass(frozen=True)
class TrainingData:
    """Images of a recipe at the model's resolution and with its types.

    Attributes:
        samples: to train on, and for each how often it is drawn (``weights``).
        held_out: to validate on; where outlines are learned, with masks if there are any.
        counts: labelled cells of each type in ``samples``.
        drawn: the same, each cell counted as often as its image is drawn: how frequent the types are in training.
        seen: of each source of the recipe the images and patients, for the model's card.
        apart: how ``held_out`` was split off the training data; "" where the recipe names validation data.
        outlined: whether nuclei have outlines to learn, which they have where the model draws them and there are masks.
    """

    samples: Sequence[Sample]
    weights: Sequence[float]
    held_out: Sequence[Sample]
    counts: list[int]
    drawn: list[float]
    seen: tuple[dict[str, list[str]], ...] = ()
    apart: str = ""
    outlined: bool = False

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
    shapes: Shapes = "outlines" if recipe.model.outlines and recipe.training.w_outline > 0 else "boxes"
    sources = [load_source(source, types, mpp, shapes) for source in recipe.train]
    # Patches have none, and looking would decode them all.
    drawn_in = [source for source in sources if not isinstance(source, LazySamples)]
    outlined = any(sample.outlines is not None for source in drawn_in for sample in source)
    samples = join(sources)
    weights = [spec.weight for spec, source in zip(recipe.train, sources, strict=True) for _ in range(len(source))]
    compared: Shapes = "masks" if shapes == "outlines" else "boxes"
    held_out = join([load_source(source, types, mpp, compared) for source in recipe.validation])
    apart, settings = "", recipe.training
    if not recipe.validation and settings.hold_out and samples:
        if isinstance(samples, LazySamples):
            raise InputError(
                f"recipe {recipe.name!r}: cells for validation cannot be taken from a patch set; name its splits:"
                " train: [{card: SET, split: train}], validation: [{card: SET, split: val}]"
            )
        whole = settings.labels == "all"
        split = hold_out(samples, weights, settings.hold_out, settings.seed, whole_images=whole)
        samples, weights, held_out, apart = split
    if settings.validation_images and len(held_out) > settings.validation_images:
        held_out = [held_out[i] for i in spread(len(held_out), settings.validation_images)]
    for part, images in (("train", samples), ("validation", held_out)):
        cells = cell_counts(images)
        if not cells.any():
            raise InputError(
                f"recipe {recipe.name!r}: no labelled cell in {part}; name a source that has some, or `data`"
            )
        if settings.labels == "some" and not settings.w_composition and not cells[:, :-1].any():
            raise InputError(
                f"recipe {recipe.name!r}: no cell of a type that the model has ({', '.join(types)}) in {part}, and"
                " nothing but types is learned; label some, name the types with model.types, or say which is which"
            )
    cells = cell_counts(samples)[:, :-1]
    drawn = np.asarray(weights) @ cells
    seen = tuple(map(images_and_patients, sources))
    return TrainingData(samples, weights, held_out, cells.sum(axis=0).tolist(), drawn.tolist(), seen, apart, outlined)


def images_and_patients(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """Digests of the images and patients of a source, for its entry in a card; nothing of a patch set."""
    if isinstance(samples, LazySamples):
        return {}
    return {"images": sorted({sample.digest for sample in samples}), "patients": sorted(patients(samples))}


def validation_px(recipe: Recipe) -> int | None:
    """Side of validation images, px, for a network that measures in fractions of an image; None: any."""
    return recipe.augment.crop if recipe.model.coordinates == "image" else None


def spread(count: int, most: int) -> list[int]:
    """``most`` indices, or fewer, spread evenly over ``count``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist() if count else []
