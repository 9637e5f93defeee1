"""``set.png``: random patches of a set with their nuclei."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from celldetr.data.patch_set import PatchSet, read_info
from celldetr.data.patch_writer import PICTURE
from celldetr.report.contact_sheet import Picture, write_contact_sheet

SHOWN, COLUMNS = 24, 6


def write_picture(folder: Path) -> Path | None:
    """Draw 24 random patches of a set, in the order of its rows; returns the file, None if there is no patch.

    Raises:
        InputError: the set is damaged, or the picture cannot be written.
    """
    path = folder / PICTURE
    if not read_info(folder).patches:
        return None
    patches = PatchSet(folder)
    seed = int(patches.info.made_with.get("options", {}).get("seed", 0))
    chosen = np.random.default_rng(seed).permutation(len(patches))[:SHOWN]
    samples = (patches[int(index)] for index in sorted(chosen))
    pictures = [Picture(sample.image, sample.boxes, f"{len(sample)} nuclei, {sample.name}") for sample in samples]
    write_contact_sheet(pictures, path, COLUMNS)
    return path
