"""Which model is used, and how it is run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from celldetr.config.base import Config, Precision, Probability

# Of a network and of the slide engine that feeds it.
BatchSize = Annotated[int, Field(ge=1, description="Tiles or images that the network takes at once.")]


class InferenceOptions(Config):
    """The arguments of ``celldetr.load_model``."""

    model: str | None = Field(
        None, title="NAME|FOLDER", description="Model, by name (`celldetr models`) or folder; default: pan-20x."
    )
    threshold: Probability | None = Field(None, description="Least score of a cell; default: the model's own.")
    device: str = Field("auto", title="NAME", description="cpu, cuda, cuda:1 or mps; auto: the fastest there is.")
    precision: Annotated[Precision, BeforeValidator(str)] = Field(
        "auto", description="Arithmetic of the network; auto: bf16 where the device multiplies it natively, else 32."
    )
    orientations: Literal[1, 2, 4, 8] = Field(
        1, description="Average over so many flips and turns of each tile, at as many times the cost."
    )
    boxes: bool = Field(False, description="Leave outlines out: the geometry of a cell is its box.")
    batch_size: BatchSize = 4
