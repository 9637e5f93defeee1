"""Slides of a set whose resolution is probably not what was said: their nuclei are not as large as nuclei are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from celldetr.data.patch_set import PatchSet
from celldetr.slide.nucleus_size import LEAST, MOST, NucleusSizes

ENOUGH = 200  # patches of a slide; they are in random order


def size_doubts(patches: PatchSet) -> list[str]:
    """One sentence for each slide with nuclei too large or too small.

    Args:
        patches: all of a set.

    Raises:
        InputError: the set is damaged.
    """
    found, first = [], 0
    for slide in patches.info.slides:
        sizes = NucleusSizes(patches.info.mpp)
        for index in range(first, first + min(slide.patches, ENOUGH)):
            boxes, scores = patches.nuclei(index)
            sides = np.ascontiguousarray((boxes[:, 2:] - boxes[:, :2]).T)
            sizes.add(pa.table({"w_px": sides[0], "h_px": sides[1], "score": scores}))
        first += slide.patches
        if sizes.doubts():
            what, likely = ("small", "twice") if sizes.median < LEAST else ("large", "half")
            found.append(
                f"{slide.name}: nuclei come out {what}: {sizes.median:.1f} um in the median, where {LEAST:g} to"
                f" {MOST:g} are to be expected; is its resolution right, or rather {likely} as many um per pixel?"
                " Check with set.png, and give the right one with --mpp and --overwrite"
            )
    return found
