"""How patches are chosen: the settings of ``celldetr data sample`` that are not the model's."""

from __future__ import annotations

from pydantic import Field

from celldetr.config import Config, Count, Probability
from celldetr.data.patch_set import LARGEST_PX, SMALLEST_PX
from celldetr.data.shards import Encoding


class SampleOptions(Config):
    """Settings of a set. All of them decide what is in it: it is only resumed with the same ones."""

    per_slide: Count = 1000  # patches of a slide; all it has, if these are fewer
    px: int = Field(320, ge=SMALLEST_PX, le=LARGEST_PX)  # side of a patch; training cuts 256 px, zoomed by .8 or more
    min_tissue: Probability = 0.3  # share of a patch that is tissue
    # Energy of the finest detail relative to that of nuclei (``quality.sharpness``). Patches of the slides in
    # docs/pretraining.md have .09 and more, and at most .042 when blurred by a Gaussian of 1 um.
    min_sharpness: float = Field(0.05, ge=0)
    max_pen: Probability = 0.01  # share of a patch that is ink
    min_nuclei: int = Field(1, ge=0)
    seed: int = Field(0, ge=0)
    validation: Probability = 0.1  # share of the slides in split val; of the patches, if there is one slide
    encoding: Encoding = "jpeg"
    shard: Count = 2000  # patches of a file
