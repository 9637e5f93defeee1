"""Slides of a set whose resolution is probably not what was said: their nuclei are not as large as nuclei are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from celldetr.data.patch_set import PatchSet
from celldetr.slide.nucleus_size import LEAST, MOST, NucleusSizes

ENOUGH = 200  # patches of a slide; they are in random order
NAMED = 3  # slides of a sentence


def size_doubts(patches: PatchSet) -> list[str]:
    """At most two sentences: one of the slides with nuclei too small, one of those with nuclei too large.

    Args:
        patches: all of a set.

    Raises:
        InputError: the set is damaged.
    """
    found: dict[str, list[str]] = {"small": [], "large": []}
    first = 0
    for slide in patches.info.slides:
        sizes = NucleusSizes(patches.info.mpp)
        for index in range(first, first + min(slide.patches, ENOUGH)):
            boxes, scores = patches.nuclei(index)
            sides = np.ascontiguousarray((boxes[:, 2:] - boxes[:, :2]).T)
            sizes.add(pa.table({"w_px": sides[0], "h_px": sides[1], "score": scores}))
        first += slide.patches
        if sizes.warnings():
            found["small" if sizes.median < LEAST else "large"].append(f"{slide.name} ({sizes.median:.1f} um)")
    return [_sentence(slides, what) for what, slides in found.items() if slides]


def _sentence(slides: list[str], what: str) -> str:
    likely = "twice" if what == "small" else "half"
    more = f" and {len(slides) - NAMED} more slides" if len(slides) > NAMED else ""
    return (
        f"{', '.join(slides[:NAMED])}{more}: nuclei come out {what} in the median, where {LEAST:g} to {MOST:g} um are"
        f" to be expected; is the resolution right, or rather {likely} as many um per pixel? Check with set.png, and"
        " give the right one with `mpp` and `overwrite=True`"
    )
