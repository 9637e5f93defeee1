"""How models are measured on labelled cells: ``celldetr evaluate``, ``threshold`` and ``probe``."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from celldetr.config.base import Config, Count, ImageMpp


class EvaluateOptions(Config):
    """How a model is scored on a data set."""

    split: str | None = Field(
        None, title="NAME", description="Which of the card's splits; by default test, or the only one there is."
    )
    protocol: str = Field(
        "standard",
        title="NAME",
        description="Rules of the main numbers: standard, within-radius, points-compat, cellvit-compat or "
        "celldetr-compat. Those of the others are reported too.",
    )
    mapping: dict[str, str] | None = Field(
        None,
        title="THEIRS=OURS",
        description="A type of the data set is one of the model's, THEIRS= for unknown; repeat for more, or a YAML "
        "file. Types that are not named keep their name.",
    )
    join: dict[str, str] | None = Field(
        None,
        title="OURS=THEIRS",
        description="Score by the types of the data set: a type of the model is one of its types, several may be the "
        "same one, OURS= leaves it out; repeat for more, or a YAML file of name: parent.",
    )
    mpp: ImageMpp = None


class ThresholdOptions(Config):
    """How a threshold is chosen on a data set."""

    split: str | None = Field(
        None, title="NAME", description="Which of the card's splits; by default val, or the only one there is."
    )
    protocols: tuple[str, ...] = Field(
        ("within-radius", "standard"),
        description="Rules of pairing, see evaluate; of several, the mean of F1 counts.",
    )
    mpp: ImageMpp = None


class RotationsOptions(Config):
    """What of the folds of a cross-validation is summed up."""

    protocol: str = Field("standard", title="NAME", description="Which of the protocols in the files.")


class ProbeOptions(Config):
    """What a probe compares, and on which cells."""

    train_split: str = Field(
        "train", title="NAME", description="What classifiers learn from; every choice is made on it alone."
    )
    test_split: str = Field(
        "test", title="NAME", description="What is reported. Use a validation split until you have decided."
    )
    against: tuple[str, ...] = Field(
        (),
        title="ROW",
        description="A row to compare with; repeat for more. crops (64 px around a nucleus through EfficientNet-Lite0 "
        "of ImageNet), crops-N (the same enlarged to N px), pooled (its features averaged over the box), handmade "
        "(size, shape, colour, texture), random and imagenet (MODEL's network untrained), or a model.",
    )
    encoder: str = Field(
        "",
        title="NAME",
        description="A row of crops through this network of timm, with weights: UNI, Virchow, H-optimus, MUSE, say.",
    )
    weights: str = Field(
        "",
        title="FILE",
        description="Weights of the encoder, safetensors or a file of tensors that torch wrote; a config.json beside "
        "it, as on Hugging Face, says how it is built and normalised.",
    )
    seeds: Count = Field(3, description="Folds, draws of labels and random weights.")
    train_images: Count | None = Field(
        None, description="Use so many images of the training split, drawn once; default: all."
    )
    types: tuple[str, ...] = Field(
        (), description="Look only at cells of this type; repeat for more; default: of all types."
    )
    mpp: ImageMpp = None
    finetune: str = Field(
        "",
        title="RECIPE",
        description="Also fine-tune all weights of each network by this recipe (finetune-all, say), with 10 and 100 % "
        "of the types: hours, not minutes.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.finetune and self.train_images is not None:
            raise ValueError(
                "`finetune` takes the whole training split: leave out `train_images`, or name another split"
            )
        if bool(self.encoder) != bool(self.weights):
            raise ValueError(
                "`encoder` and `weights` go together: timm's name of a network, and the file of its weights"
            )
        if self.train_split == self.test_split:
            raise ValueError(
                f"`train_split` and `test_split` are both {self.test_split!r}; choose two that share nobody"
            )
        return self
