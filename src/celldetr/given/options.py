"""Settings of ``celldetr embed`` that are not the model's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from celldetr.config import Config, SlideMpp


class EmbedOptions(Config):
    """How a slide and its cells are read."""

    mpp: SlideMpp = None
    origin: Literal["bounds", "slide"] = Field(
        "bounds",
        description="Where coordinates of GeoJSON count from. bounds: the scanned part, as in QuPath; slide: the whole "
        "level 0, as those of all other files do.",
    )
    any_stain: bool = Field(False, description="Also embed cells on what seems to be fluorescence, not H&E.")
