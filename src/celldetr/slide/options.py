"""How a slide is read: the settings of ``celldetr predict`` that are not the model's."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from celldetr.config import Config, SlideMpp
from celldetr.config.inference import BatchSize
from celldetr.errors import InputError


def _roi(value: Any) -> str | None:
    if value is None:
        return None
    from celldetr.slide.roi import roi_text  # shapely is loaded by those only who draw a region

    return roi_text(value)


TILE = 768  # px


class PredictOptions(Config):
    """Settings of a run. All but ``batch_size`` decide which cells come out: a run resumes only with the same ones.

    Examples:
        >>> import celldetr
        >>> celldetr.PredictOptions(region=(0, 0, 500, 400), overlap=96).overlap
        96
    """

    mpp: SlideMpp = None
    tile: int | None = Field(
        None,
        ge=32,
        description=f"Side of a tile, px at the model's mpp; smaller needs less memory. Default: {TILE}, or the size "
        "of the images that the model was trained on if it needs that.",
    )
    overlap: int = Field(64, ge=0, description="Px that neighbouring tiles share; more than the largest nucleus.")
    batch_size: BatchSize = 4
    tissue: bool = Field(True, description="Read only tiles that touch tissue, or all.")
    region: tuple[float, float, float, float] | None = Field(
        None, title="X Y WIDTH HEIGHT", description="Only this part, in pixels at full resolution."
    )
    roi: Annotated[str | None, BeforeValidator(_roi)] = Field(
        None, description="Only cells inside this geometry (WKT), in pixels at full resolution."
    )
    roi_origin: Literal["bounds", "slide"] = Field(
        "bounds",
        description="Where its pixels count from. bounds: the scanned part, as in QuPath; slide: the whole level 0.",
    )
    any_stain: bool = Field(False, description="Also look for cells on what seems to be fluorescence, not H&E.")
    offset: float = Field(0.0, ge=0, description="Px by which the seams between tiles are moved, for tests.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tile is not None and self.overlap > self.tile // 2:
            raise ValueError(f"`overlap={self.overlap}` must not exceed half of `tile={self.tile}`")
        if self.region is not None and min(self.region[2:]) <= 0:
            raise ValueError(
                f"`region={' '.join(f'{value:g}' for value in self.region)}` must have a positive width and height"
            )
        return self

    def tile_for(self, image_px: int | None) -> int:
        """The side of a tile for a model with ``image_px`` (see ``TileModel``)."""
        if self.tile is not None:
            return self.tile
        side = image_px or TILE
        if self.overlap > side // 2:
            raise InputError(
                f"`overlap={self.overlap}` must not exceed half of a tile, which has {side} px with this model; "
                f"choose {side // 2} or less"
            )
        return side
