"""How a slide is read: the settings of ``celldetr predict`` that are not the model's."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from celldetr.config import Config, Count
from celldetr.errors import InputError


def _roi(value: Any) -> str | None:
    if value is None:
        return None
    from celldetr.slide.roi import roi_text  # shapely is loaded by those only who draw a region

    return roi_text(value)


TILE = 768


class PredictOptions(Config):
    """Settings of a run. All but ``batch_size`` decide which cells come out: a run resumes only with the same ones."""

    # Side in px of the model's mpp; smaller needs less memory. None: 768, or what the model was trained on if it knows
    # images of one size only (``TileModel.image_px``).
    tile: Annotated[int | None, Field(ge=32)] = None
    overlap: Annotated[int, Field(ge=0)] = 64  # px that neighbouring tiles share; should exceed the largest nucleus
    batch_size: Count = 4  # tiles the model is given at once; it may take fewer together (``load_model(batch_size=)``)
    mpp: float | None = None  # um per pixel of level 0, instead of what the file says
    tissue: bool = True  # only read tiles that touch tissue; False: all
    region: tuple[float, float, float, float] | None = None  # x, y, width, height in level-0 px; None: the whole slide
    roi: Annotated[str | None, BeforeValidator(_roi)] = None  # what read_roi gives, kept as WKT: only cells inside it
    roi_origin: Literal["bounds", "slide"] = (
        "bounds"  # where its pixels count from: what was scanned (QuPath), or level 0
    )
    offset: Annotated[float, Field(ge=0)] = (
        0.0  # px by which the seams between tiles are moved, to test that none shows
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tile is not None and self.overlap > self.tile // 2:
            raise ValueError(f"overlap={self.overlap} must not exceed half of tile={self.tile}")
        if self.region is not None and min(self.region[2:]) <= 0:
            raise ValueError(f"region={self.region} must be x, y, width, height with a positive width and height")
        return self

    def tile_for(self, image_px: int | None) -> int:
        """The side of a tile.

        Args:
            image_px: of the model, see ``TileModel``.

        Raises:
            InputError: the overlap is too large for the tiles that the model needs.
        """
        if self.tile is not None:
            return self.tile
        side = image_px or TILE
        if self.overlap > side // 2:
            raise InputError(
                f"overlap={self.overlap} must not exceed half of a tile, which has {side} px with this model; "
                f"choose {side // 2} or less"
            )
        return side
