"""How patches are chosen: the settings of ``celldetr data sample`` that are not the model's."""

from __future__ import annotations

from pydantic import Field

from celldetr.config import Config, Count, Probability, SlideMpp
from celldetr.config.data import Encoding, PatchPx


class SampleOptions(Config):
    """Settings of a set. All of them decide what is in it: it is only resumed with the same ones."""

    per_slide: Count = Field(1000, description="Patches of each slide; all it has, if these are fewer.")
    px: PatchPx = Field(
        320, description="Side of a patch; larger than what training cuts from it (256), so that zoom has room."
    )
    min_nuclei: int = Field(1, ge=0, description="Leave out patches with fewer nuclei.")
    min_tissue: Probability = Field(0.3, description="Leave out patches with a smaller share of tissue.")
    # Energy of the finest detail relative to that of nuclei (``slide.focus``). Patches of the slides in
    # docs/reports/pretraining.md have .09 and more, and at most .042 when blurred by a Gaussian of 1 um.
    min_sharpness: float = Field(
        0.05, ge=0, description="Leave out blurred patches: sharp ones have .09 and more; 0 takes all."
    )
    max_pen: Probability = Field(0.01, description="Leave out patches with a larger share of pen.")
    seed: int = Field(0, ge=0, description="Seed of the places and their order; the same seed gives the same set.")
    validation: Probability = Field(
        0.1, description="Share of the slides in split val; of the patches, if there is one slide."
    )
    encoding: Encoding = Field("jpeg", description="png: without loss, and some six times as large as jpeg.")
    shard: Count = Field(2000, description="Patches of a file.")


class SlideFacts(Config):
    """What slides do not say themselves."""

    mpp: SlideMpp = None
    patch_mpp: float | None = Field(
        None, description="With `polygons`: micrometres per pixel of the patches; default: the model's."
    )
    licence: str = Field("unknown", description="Licence of the slides; models trained on the set name it.")
