"""Slides of a set whose resolution is probably not what was said: their nuclei are not as large as nuclei are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from celldetr.data.patch_set import PatchSet
from celldetr.slide.nucleus_size import NucleusSizes

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
        found += [f"{slide.name}: {doubt}" for doubt in sizes.doubts()]
    return found
