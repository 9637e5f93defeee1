"""What a user looks at in a new patch set: a picture of random patches, and slides with nuclei of implausible size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from celldetr.data.patch_set import PatchSet, read_info
from celldetr.data.patch_writer import PICTURE
from celldetr.report.contact_sheet import Picture, write_contact_sheet
from celldetr.slide.nucleus_size import LEAST, MOST, NucleusSizes

SHOWN, COLUMNS = 24, 6
ENOUGH = 200  # patches of a slide whose nuclei are measured; they are in random order
NAMED = 3  # slides of a sentence


def write_picture(folder: Path) -> None:
    """Draw 24 random patches of a set, if it has any, with their nuclei, in the order of its rows.

    Raises:
        InputError: the set is damaged, or the picture cannot be written.
    """
    if not read_info(folder).patches:
        return
    patches = PatchSet(folder)
    seed = int(patches.info.made_with.get("options", {}).get("seed", 0))
    chosen = np.random.default_rng(seed).permutation(len(patches))[:SHOWN]
    samples = (patches[int(index)] for index in sorted(chosen))
    pictures = [Picture(sample.image, sample.boxes, f"{len(sample)} nuclei, {sample.name}") for sample in samples]
    write_contact_sheet(pictures, folder / PICTURE, COLUMNS)


def size_warnings(patches: PatchSet) -> list[str]:
    """Sentences about slides whose nuclei are so small or large that their resolution is probably wrong.

    Args:
        patches: all of a set.
    """
    slides: dict[str, list[str]] = {"small": [], "large": []}
    first = 0
    for slide in patches.info.slides:
        sizes = NucleusSizes(patches.info.mpp)
        for index in range(first, first + min(slide.patches, ENOUGH)):
            boxes, scores = patches.nuclei(index)
            width, height = (boxes[:, 2:] - boxes[:, :2]).T
            sizes.add(pa.table({"w_px": width.copy(), "h_px": height.copy(), "score": scores}))
        first += slide.patches
        if sizes.warnings():
            slides["small" if sizes.median < LEAST else "large"].append(f"{slide.name} ({sizes.median:.1f} um)")
    return [
        f"{', '.join(names[:NAMED])}{f' and {len(names) - NAMED} more slides' if len(names) > NAMED else ''}: nuclei"
        f" come out {what} in the median, where {LEAST:g} to {MOST:g} um are to be expected; is the resolution right,"
        f" or rather {'twice' if what == 'small' else 'half'} as many um per pixel? Check with set.png, and give the"
        " right one with `mpp` and `overwrite=True`"
        for what, names in slides.items()
        if names
    ]
