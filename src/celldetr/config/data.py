"""Where training images come from, and how they are augmented."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from celldetr.config.base import Config, Count, ImageMpp, Positive, Probability, Share

SMALLEST_PX, LARGEST_PX = 16, 4096
PatchPx = Annotated[int, Field(ge=SMALLEST_PX, le=LARGEST_PX)]  # side of a patch
Encoding = Literal["jpeg", "png"]  # of the pictures of a patch set


class DataSource(Config):
    """One split of one data set, as a recipe names it."""

    card: str = Field(
        description="A data set's card, by path (YAML) or name; or a folder or file of labels; or a patch set."
    )
    split: str = Field(description="Which of its splits.")
    mpp: ImageMpp = None
    types: dict[str, str] | None = Field(
        None, description='Type of the data set -> type of the model, "" for unknown; default: those of the same name.'
    )
    weight: Positive = Field(1.0, description="How often its images are drawn, relative to their area.")
    label_share: Share = Field(
        1.0, description="Share of the cells of each type that keep it; the others become nuclei of unknown type."
    )
    image_share: Share = Field(1.0, description="Share of its images that are used.")
    label_seed: int = Field(
        0, ge=0, description="Seed of both shares; of one seed, a larger share includes the smaller ones."
    )


class AugmentConfig(Config):
    """Augmentation of training images; boxes are transformed with them."""

    crop: Count = Field(256, description="Side of the crops, px at the model's mpp.")
    scale: tuple[float, float] = Field((0.8, 1.25), description="Range of the zoom, log-uniform.")
    orientations: bool = Field(True, description="Draw from all eight flips and quarter turns.")
    turns: bool = Field(True, description="With orientations: quarter turns; false: flips alone.")
    stain: float = Field(
        0.1, ge=0, description="HED jitter s: each stain is multiplied by U(1 - s, 1 + s), and U(-s, s) / 4 is added."
    )
    stain_p: Probability = Field(0.8, description="Probability of HED jitter.")
    colour: float = Field(
        0.2,
        ge=0,
        description="Colour jitter c: brightness, contrast and saturation by U(1 - c, 1 + c); hue by +-c / 10.",
    )
    contrast: float | None = Field(None, ge=0, description="Jitter of contrast; default: colour.")
    hue: float | None = Field(None, ge=0, le=0.5, description="Jitter of hue, part of a turn; default: colour / 10.")
    colour_p: Probability = Field(0.5, description="Probability of colour jitter.")
    blur: float = Field(1.0, ge=0, description="Largest sigma of Gaussian blur, px.")
    blur_least: float = Field(0.0, ge=0, description="Smallest sigma of Gaussian blur, px.")
    blur_p: Probability = Field(0.2, description="Probability of blur.")

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be [smallest, largest] with 0 < smallest <= largest, got {list(self.scale)}")
        if self.blur_least > self.blur:
            raise ValueError(f"blur_least must not be above blur, got {self.blur_least:g} and {self.blur:g}")
        return self
