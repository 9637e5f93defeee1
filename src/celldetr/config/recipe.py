"""A training run as data: network, images, augmentation and schedule in one YAML file."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, field_validator, model_validator

from celldetr.config.base import Config
from celldetr.config.data import AugmentConfig, DataSource
from celldetr.config.model import ModelConfig
from celldetr.config.training import TRAINING, TrainConfig


class Recipe(Config):
    """A whole training run as data: network, images, schedule.

    Examples:
        >>> from celldetr.recipes import load_recipe
        >>> load_recipe("small-20x", ["training.steps=200"]).training.steps
        200
    """

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
    training: TrainConfig = Field(TrainConfig(), validate_default=True)  # of the class that ``TRAINING`` names
    licence: str = Field("unknown", description="Licence of the trained weights, as far as the data allow.")
    notes: str = Field("", description="Free text.")

    @field_validator("training", mode="wrap")
    @classmethod
    def _of_the_models_kind(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> TrainConfig:
        """Discriminated union: which settings of training there are depends on ``model.represent``."""
        model = info.data.get("model")
        if model is None:  # which is wrong, and said to be
            return handler(value)
        given = value.model_dump(exclude_unset=True) if isinstance(value, TrainConfig) else value
        return TRAINING[model.represent].model_validate(given)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        settings = self.training
        outlines = self.model.outlines and settings.w_outline > 0
        learned = settings.learns_types or outlines or settings.objective == "contrastive"
        if settings.detection_frozen and not learned:
            raise ValueError(
                f"training.freeze={list(settings.freeze)} with training.w_type=0 leaves nothing to learn; set w_type"
                " or model.outlines, or do not freeze the detector"
            )
        if settings.freeze and not self.init:
            raise ValueError(f"training.freeze={list(settings.freeze)} keeps weights that init has to name")
        if settings.contrastive.start == "whitened" and self.model.content != "features":
            raise ValueError(
                "training.contrastive.start='whitened' makes the content of queries from the features in their boxes;"
                f" model.content is {self.model.content!r}, use model.content=features"
            )
        return self
