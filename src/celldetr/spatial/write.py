"""Training set of a section (step 6): a patch set with the type of each nucleus, for ``celldetr train xenium``.

Patches lie on a grid over the part of the image where the section has cells: nuclei beyond have no labels. The section
is divided into regions of about equal numbers of labelled nuclei; each is a slide of the set, ``NAME [region 3]``, so
that whole regions are held out, never patches at random. A nucleus is in the patch, and a patch in the region, with its
centre.

The set depends on the inputs and the options alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.data.patch_set import PatchSetInfo, Position
from celldetr.data.patch_writer import PatchWriter
from celldetr.errors import InputError
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import DamageError
from celldetr.slide.pipeline import ahead, usable_threads
from celldetr.spatial.affine import Floats
from celldetr.spatial.nucleus_labels import label_nuclei
from celldetr.spatial.patch_layout import DAMAGED, PatchLayout, WriteOptions, lay_out
from celldetr.spatial.section import Nuclei, Section
from celldetr.spatial.spots import spot_types

if TYPE_CHECKING:
    import pandas as pd

AHEAD = 8  # patches read before they are asked for, beside one a thread


def write_set(
    section: Section,
    reader: SlideReader,
    nuclei: Nuclei,
    to_image: Floats,
    pairs: pd.DataFrame,
    types: pd.DataFrame,
    out: Path,
    options: WriteOptions,
    *,
    spots: pd.DataFrame | None = None,
    donor: str = "",
    licence: str = "unknown",
    progress: Callable[[float], None] | None = None,
) -> PatchSetInfo:
    """Write a training set, and return the content of its ``set.json``; other files in its folder stay.

    Args:
        section: its cells show where there can be labels.
        reader: of the H&E.
        nuclei: of the image.
        to_image: (3, 3) from the section's micrometres to level-0 px.
        pairs, types: tables ``PAIRS`` and ``TYPES``.
        out: folder of the set, which no other process works on meanwhile; a set that is in it is replaced.
        options: settings.
        spots: a row a spot: ``x_um``, ``y_um`` (centre), ``diameter_um`` in micrometres of the section, and a column
            "p: NAME" for each type, shares that sum to 1. With ``composition="spots"``; types are then the spots'.
        donor: who the section is of: the group of its patches.
        licence: of the data.
        progress: called with the share that is done.

    Raises:
        InputError: no nucleus is sure of a type, too few patches for two regions, an image smaller than a patch or
            unreadable, wrong spots; the disk is full.
    """
    names = None
    if options.composition == "spots":
        if spots is None:
            raise InputError("composition='spots' needs a table of spots")
        names = spot_types(spots)
    labels = label_nuclei(len(nuclei), pairs, types, options, names)
    if options.composition != "spots" and not labels.counts["labelled"]:
        counts = ", ".join(f"{count:,} {what}" for what, count in labels.counts.items())
        raise InputError(f"no nucleus is sure of its type ({counts}); check the alignment and the types")
    layout = lay_out(section, reader, nuclei, labels, options, to_image, spots)
    image = {"file": reader.file, "size": [reader.width, reader.height], "mpp": [reader.mpp_x, reader.mpp_y]}
    made_with = {
        "version": version("celldetr"),
        "step": "spatial write",
        "options": options.model_dump(mode="json"),
        "section": {"name": section.name, "cells": section.cells.n_obs, "source": section.source},
        "donor": donor,
        "image": image | {"bytes": reader.size_bytes},
        "affine": to_image.tolist(),
        "nuclei": nuclei.source,
        "counts": {"cells": section.cells.n_obs, "cells with a type": len(types)} | labels.counts,
        "labelled_by_region": {each.name: layout.types_of(each) for each in layout.regions},
        "licence": licence,
    }
    info = PatchSetInfo.begin(
        mpp=options.mpp,
        px=options.px,
        encoding=options.encoding,
        types=labels.names,
        validation=options.validation,
        licence=licence,
        made_with=made_with,
    )
    with PatchWriter(out, info, options.shard) as writer:
        _write_patches(writer, reader, layout, donor, progress or (lambda _: None))
        return writer.info


def _write_patches(
    writer: PatchWriter, reader: SlideReader, layout: PatchLayout, donor: str, progress: Callable[[float], None]
) -> None:
    """Write all regions, and end the set."""
    total, done = sum(len(region.places) for region in layout.regions), 0
    threads, px = usable_threads(), layout.options.px

    def read(place: int) -> NDArray[np.uint8] | None:
        """Pixels of a place; None where the file is damaged."""
        (x, y), (width, height) = layout.grid.corners(np.array([place]))[0].tolist(), layout.grid.side.tolist()
        try:
            return reader.read_region(x, y, width, height, px, px)
        except DamageError:
            return None

    for number, region in enumerate(layout.regions):
        places = region.places.tolist()
        with closing(ahead(read, places, AHEAD + threads, threads)) as images:
            for position, (place, image) in enumerate(zip(places, images, strict=True)):
                if image is None:
                    region.left_out[DAMAGED] += 1
                else:
                    patch = layout.patch(region, place, image)
                    writer.add(patch)
                    region.patches += 1
                    region.nuclei += len(patch.boxes)
                if not writer.room:
                    infos = [each.info(reader.file, donor) for each in layout.regions[: number + 1]]
                    writer.close_shard(infos, Position(slide=number, place=position + 1))
                done += 1
                progress(done / total)
    writer.close_shard([each.info(reader.file, donor) for each in layout.regions], None)
