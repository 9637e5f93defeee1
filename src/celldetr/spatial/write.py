"""Step 6: the section's nuclei as a patch set with types, which ``celldetr train xenium --data SET`` learns from.

Patches lie on a grid over the part of the image where the section has cells: nuclei beyond have no labels. The section
is divided into regions of about equal numbers of labelled nuclei; each is a slide of the set, ``NAME [region 3]``, so
that whole regions are held out, never patches at random. A nucleus is in the patch, and a patch in the region, with its
centre.

What comes out depends on the inputs and the options alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.data.patch_set import PatchSetInfo
from celldetr.data.patch_writer import PatchWriter
from celldetr.errors import InputError
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.reader import open_slide
from celldetr.spatial.patches import Plan, WriteOptions
from celldetr.spatial.section import Nuclei, Section

if TYPE_CHECKING:
    import pandas as pd


def write_set(
    section: Section,
    image_path: Path,
    nuclei: Nuclei,
    pairs: pd.DataFrame | None,
    types: pd.DataFrame | None,
    out: Path,
    options: WriteOptions | None = None,
    *,
    affine: NDArray[np.float64] | None = None,
    mpp: float | None = None,
    type_names: Sequence[str] | None = None,
    spots: pd.DataFrame | None = None,
    donor: str = "",
    licence: str = "unknown",
    progress: Callable[[float], None] | None = None,
) -> PatchSetInfo:
    """Write a training set; other files in its folder stay.

    Args:
        section: whose cells say where there can be labels.
        image_path: of the H&E.
        nuclei: of the image, level-0 px.
        pairs: ``steps.PAIRS``; may be None with ``spots``.
        types: ``steps.TYPES``, with the types that the model is to have; may be None with ``spots``.
        out: folder of the set, which nobody else works on meanwhile; a set that is in it is replaced.
        options: settings.
        affine: (3, 3) from the section's micrometres to level-0 px, as aligned; None: ``section.to_image``; without
            either the nuclei with a cell say where the section is.
        mpp: micrometres per pixel of level 0, instead of what the file says; where neither is there, the affine's.
        type_names: the types of the set, in order; nuclei of others are of unknown type. None: all that some nucleus
            has.
        spots: a row a spot: ``x_um``, ``y_um`` (centre), ``diameter_um`` in the frame of the section, and a column
            "p: NAME" for each type, shares that sum to 1. With ``composition="spots"``.
        donor: who the section is of; told as the group of its patches, so that several sets can be told apart.
        licence: of the data; told to whoever uses the set.
        progress: told the share that is done.

    Returns:
        Content of ``set.json``; ``made_with`` has the numbers of cells at each step and by region.

    Raises:
        InputError: no nucleus is sure of a type, too few patches for two regions, an image smaller than a patch, of
            unknown resolution or unreadable, wrong spots; the disk is full.
    """
    options = options or WriteOptions()
    affine = section.to_image if affine is None else affine
    with _open(image_path, mpp, affine) as reader:
        plan = Plan.make(section, reader, nuclei, pairs, types, options, affine, type_names, spots, donor)
        info = PatchSetInfo.begin(
            mpp=options.mpp,
            px=options.px,
            encoding=options.encoding,
            types=plan.labels.names,
            validation=options.validation,
            licence=licence,
            made_with=plan.made_with(section, nuclei, pairs, types, spots, affine, licence),
        )
        with PatchWriter(out, info, options.shard) as writer:
            return plan.write(writer, progress)


def _open(path: Path, mpp: float | None, affine: NDArray[np.float64] | None) -> SlideReader:
    """The image; of a file without resolution, that of the affine."""
    try:
        return open_slide(path, mpp)
    except InputError:
        area = 0.0 if affine is None else abs(float(np.linalg.det(affine[:2, :2])))
        if mpp is not None or not area > 0:
            raise
        return open_slide(path, area**-0.5)  # what else is wrong is said again
