"""A training run as data: network, images, augmentation and schedule in one YAML file."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from celldetr.config.base import Config
from celldetr.config.data import AugmentConfig, DataSource
from celldetr.config.model import ModelConfig
from celldetr.config.training import TrainConfig


class Recipe(Config):
    """A whole training run as data: network, images, schedule."""

    name: str = Field(description="Name of the model that comes out.")
    init: str = Field(
        "",
        description="Model, by name or folder, whose weights the run starts from, as far as they fit. Settings of "
        "model that the recipe leaves out are taken from it.",
    )
    model: ModelConfig
    train: tuple[DataSource, ...] = Field(description="Training data.")
    validation: tuple[DataSource, ...] = Field(description="Validation data.")
    augment: AugmentConfig = AugmentConfig()
    training: TrainConfig = TrainConfig()
    licence: str = Field("unknown", description="Licence of the trained weights, as far as the data allow.")
    notes: str = Field("", description="Free text.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        settings = self.training
        learned = settings.learns_types or settings.objective == "contrastive"
        if settings.detection_frozen and not learned:
            raise ValueError(
                f"training.freeze={list(settings.freeze)} with training.w_type=0 leaves nothing to learn; set w_type,"
                " or do not freeze the detector"
            )
        if settings.freeze and not self.init:
            raise ValueError(f"training.freeze={list(settings.freeze)} keeps weights that init has to name")
        if self.model.represent == "queries" and settings.objective == "contrastive":
            raise ValueError(
                "training.objective='contrastive' embeds boxes, for which model.represent='queries' has no"
                " representation decoder; use model.represent=boxes"
            )
        if settings.contrastive.start == "whitened" and self.model.content != "features":
            raise ValueError(
                "training.contrastive.start='whitened' makes the content of queries from the features in their boxes;"
                f" model.content is {self.model.content!r}, use model.content=features"
            )
        if self.model.represent == "queries" and settings.mode != "sequential":
            raise ValueError(
                f"training.mode={settings.mode!r} feeds boxes to a representation decoder, and model.represent="
                "'queries' has none; use training.mode=sequential"
            )
        if self.model.represent == "queries" and settings.w_composition:
            raise ValueError(
                "training.w_composition teaches types through a representation decoder, and model.represent='queries'"
                " has none; use model.represent=boxes"
            )
        if self.model.represent == "queries" and (settings.detection_frozen or "representer" in settings.freeze):
            raise ValueError(
                f"training.freeze={list(settings.freeze)}, but with model.represent='queries' it is the detector that"
                " learns types, and there is no representer; leave out both"
            )
        return self
