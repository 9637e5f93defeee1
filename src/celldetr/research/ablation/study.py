"""A study as data: one recipe, variants of it that differ in what they name, seeds, and a test split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from celldetr.config import Config, Count, Recipe, merge, override, parse
from celldetr.errors import InputError, near
from celldetr.io.safe_io import find_yaml, read_yaml
from celldetr.recipes import load_recipe

FOLDER = Path(__file__).parent / "studies"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SEED = "$seed"  # in a change: the seed of the trial


class Variant(Config):
    """One row of a study's table."""

    title: str = Field(description="What it is.")
    set: tuple[str, ...] = Field(
        (),
        description="dotted.key=value changes to the study's recipe. $seed in a value becomes the trial's seed, for "
        "what has one of its own (init=runs/pretrained-$seed).",
    )


class Benchmark(Config):
    """What a study is scored on, once a trial; whatever is chosen, is chosen on the recipe's validation data."""

    card: str = Field(description="Data set whose images trials are scored on.")
    split: str = Field(description="Split of it.")
    types: tuple[str, ...] = Field((), description="Types of which the mean F1 is taken; none: all.")
    labels: dict[str, str] = Field(
        {}, description='Type of the data set -> type of the model, "" for unknown; none: those of the same name.'
    )
    cut: Count | None = Field(
        None, description="Cut images into pieces of so many pixels at the model's mpp, for model.coordinates=image."
    )


class Study(Config):
    """One recipe, variants of it, seeds, and a test split."""

    name: str = Field(description="Name of the file, and of the folder of results.")
    title: str = Field(description="Heading of the report.")
    kind: Literal["whole", "decoder"] = Field(
        "whole",
        description="whole: a trial trains a network; decoder: a trial trains a representation decoder on the memory "
        "of a detector, one a seed, that all variants share.",
    )
    recipe: str = Field(description="Recipe, name or file.")
    set: tuple[str, ...] = Field((), description="Changes to the recipe that hold for all variants.")
    detector: tuple[str, ...] = Field((), description="Further changes for the shared detector of a decoder study.")
    crops: Count = Field(800, description="Training crops that a decoder study stores.")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="Seeds; a trial is a variant with a seed.")
    baseline: str = Field(description="The variant that others are compared with.")
    variants: dict[str, Variant] = Field(
        min_length=1, title="MAPPING", description="Variants by short name, each with title and set."
    )
    test: Benchmark

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.baseline not in self.variants:
            raise ValueError(f"baseline={self.baseline!r} is no variant; {near(self.baseline, self.variants)}")
        wrong = [name for name in self.variants if not NAME.fullmatch(name)]
        if wrong:
            raise ValueError(f"variant {wrong[0]!r}: names become folders; use letters, digits, -, _ and dots inside")
        if "detector" in self.variants:
            raise ValueError("variant 'detector': that name is the shared detector's; choose another")
        return self

    def recipe_of(self, variant: str, seed: int) -> Recipe:
        """The recipe of a trial.

        Raises:
            InputError: a variant's setting does not exist or does not fit.
        """
        return self._recipe([*self.set, *self.variants[variant].set], seed, variant)

    def trial_of(self, variant: str) -> dict[str, Any]:
        """What decides the result of a trial, beside its seed, as the study has it: kept with the result."""
        shared = {"detector": list(self.detector), "crops": self.crops} if self.kind == "decoder" else {}
        changes = [*self.set, *self.variants[variant].set]
        # Types decide the report alone.
        test = self.test.model_dump(mode="json", exclude={"types"} if self.test.labels else {"types", "labels"})
        return {"recipe": self.recipe, "set": changes, **shared, "test": test}

    def check(self, variants: Iterable[str], seed: int) -> None:
        """Try the recipes of trials that are to be run.

        Args:
            variants: short names.
            seed: of the trials.

        Raises:
            InputError: a setting does not exist or does not fit, a model to start from is not there, or variants of a
                ``decoder`` study cannot share a detector.
        """
        recipes = {variant: self.recipe_of(variant, seed) for variant in variants}
        if self.kind != "decoder" or not recipes:
            return
        detector = self.detector_recipe(seed)
        most = max(recipe.training.batch_size for recipe in recipes.values())
        if self.crops < most:
            raise InputError(f"{self.name}: crops={self.crops} are stored, fewer than training.batch_size={most}")
        for variant, recipe in recipes.items():
            _check_shared(detector, recipe, f"{self.name}, variant {variant!r}")

    def detector_recipe(self, seed: int) -> Recipe:
        """The recipe of the detector that all variants of a seed share."""
        return self._recipe([*self.set, *self.detector], seed, "detector")

    def _recipe(self, changes: Sequence[str], seed: int, part: str) -> Recipe:
        own = [change.replace(SEED, str(seed)) for change in changes]
        return load_recipe(self.recipe, [*own, f"training.seed={seed}", f"name={self.name}-{part}"])


def load_study(name: str | Path, assignments: Sequence[str] = (), settings: Mapping[str, Any] | None = None) -> Study:
    """Read a study, without its recipes (``Study.check``): to report on results these need not be there any more.

    Args:
        name: of a study in the package, or a YAML file.
        assignments: ``key=value`` changes to it.
        settings: changes to it, on which assignments win.

    Raises:
        InputError: no such study, or a wrong setting of its own.
    """
    values = merge(read_yaml(find_yaml(name, FOLDER, "study")), settings or {})
    return parse(Study, override(values, assignments), str(name))


# What a variant of a ``decoder`` study may change of the network: the representation decoder alone.
OWN = {
    "representation_layers",
    "representation_strides",
    "self_attention",
    "decoupled",
    "content",
    "constrained",
    "free_offsets",
    "margin",
    "offset_start",
    "location_encoding",
    "dropout",
    "pretrained",
}


def _check_shared(detector: Recipe, variant: Recipe, where: str) -> None:
    for key, value in detector.model.model_dump().items():
        other = getattr(variant.model, key)
        if key not in OWN and value != other:
            raise InputError(
                f"{where}: model.{key}={other!r}, but the detector that all variants share has {value!r}; "
                f"variants of a decoder study may change {', '.join(sorted(OWN))}"
            )
    if unknown := set(variant.model.representation_strides) - set(detector.model.representation_strides):
        raise InputError(
            f"{where}: model.representation_strides has {sorted(unknown)}, of which nothing is stored: name them in"
            " the study's set, and fewer in a variant"
        )
