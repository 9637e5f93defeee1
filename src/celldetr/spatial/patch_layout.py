"""Layout of the patches of a section: which places become patches, with which nuclei, in which regions and order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Count, Mpp, Positive, Probability
from celldetr.config.data import Encoding, PatchPx
from celldetr.data.patch_set import SlideInfo
from celldetr.data.shards import Patch
from celldetr.data.sources import SAME_MPP
from celldetr.errors import InputError
from celldetr.slide.base_reader import SlideReader
from celldetr.spatial.affine import Floats, apply
from celldetr.spatial.nucleus_labels import LabelOptions, NucleusLabels
from celldetr.spatial.patch_grid import LEAST_FIELD, PatchGrid, divide, field_shares, lay_grid
from celldetr.spatial.section import Nuclei, Section
from celldetr.spatial.spots import SectionSpots, measured_spots, spots_of_cells

if TYPE_CHECKING:
    import pandas as pd

DAMAGED, FEW_NUCLEI, FEW_PAIRED, NO_SPOT = "damaged", "few nuclei", "few nuclei with a cell", "no whole spot"


class WriteOptions(LabelOptions):
    """Settings of the training set. All of them decide what is in it."""

    mpp: Mpp = Field(0.4, description="Micrometres per pixel of the patches: that of the default model.")
    # Training cuts 256 px, zoomed by .8 or more.
    px: PatchPx = Field(320, description="Side of a patch.")
    min_nuclei: int = Field(5, ge=0, description="Nuclei of a patch, at least.")
    min_share: Probability = Field(
        0.3, description="Share of a patch's nuclei that have a cell; with fewer, image and section do not agree there."
    )
    field_um: Positive = Field(
        25.0, description="Side of the squares that show where the section has cells; larger for few cells."
    )
    regions: Count = Field(10, description="Parts of the section that are held out, or not, as a whole.")
    validation: Probability = Field(0.2, description="Share of the regions in split val.")
    composition: Literal["none", "cells", "spots"] = Field(
        "none",
        description="Compositions of groups of nuclei, for `training.w_composition`. cells: of squares of `spot_um`,"
        " from the probabilities of the cells in them; spots: of measured spots, as Visium's.",
    )
    spot_um: Positive = Field(55.0, description="Side of the squares.")
    seed: int = Field(0, ge=0, description="Of the order of patches.")
    encoding: Encoding = Field("jpeg", description="Of the pictures.")
    shard: Count = Field(2000, description="Patches of a file.")


@dataclass
class Region:
    """A part of the section, held out or not as a whole; a slide of the patch set."""

    name: str
    total: int  # places in it
    places: NDArray[np.int64]  # (P,) that become patches, in the order in which they are written
    left_out: Counter[str]  # reason -> places that do not
    patches: int = 0  # written so far
    nuclei: int = 0

    def info(self, file: str, group: str) -> SlideInfo:
        """For ``set.json``."""
        return SlideInfo(
            name=self.name,
            file=file,
            places=self.total,
            looked_at=self.patches + self.left_out.total(),
            patches=self.patches,
            nuclei=self.nuclei,
            left_out=dict(sorted(self.left_out.items())),
            group=group,
        )


@dataclass(frozen=True)
class PatchLayout:
    """Places of the patches, their nuclei and their regions."""

    nuclei: Nuclei
    labels: NucleusLabels
    options: WriteOptions
    grid: PatchGrid  # the places, level-0 px
    step: Floats  # (2,) level-0 px per px of a patch
    order: NDArray[np.int64]  # (M,) nuclei, by place; those in no place are left out
    starts: NDArray[np.int64]  # (places + 1,) first of ``order`` in each place
    spots: SectionSpots | None  # compositions of groups of nuclei, if asked for
    regions: list[Region]

    def nuclei_of(self, place: int) -> NDArray[np.int64]:
        """Positions of the nuclei with their centre in a place."""
        return self.order[self.starts[place] : self.starts[place + 1]]

    def patch(self, region: Region, place: int, image: NDArray[np.uint8]) -> Patch:
        """The patch of a place, with the labels of its nuclei."""
        own = self.nuclei_of(place)
        corner = self.grid.corners(np.array([place]))[0]
        boxes = (self.nuclei.boxes[own].astype(np.float64) - np.tile(corner, 2)) / np.tile(self.step, 2)
        boxes = np.clip(boxes, 0, self.options.px).astype(np.float32)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)  # a sliver at the edge may be lost in rounding
        own = own[kept]
        return Patch(
            slide=region.name,
            x=float(corner[0]),
            y=float(corner[1]),
            mpp=self.options.mpp,
            image=image,
            boxes=boxes[kept],
            scores=np.clip(self.nuclei.scores[own], 0, 1),
            types=self.labels.types[own],
            confidence=self.labels.confidence[own] if self.options.confidence else None,
            spots=None if self.spots is None else self.spots.of_place(place, own),
        )

    def types_of(self, region: Region) -> dict[str, int]:
        """Labelled nuclei of each type in a region's patches."""
        there = np.concatenate([np.zeros(0, np.int64), *map(self.nuclei_of, region.places.tolist())])
        types, names = self.labels.types[there], self.labels.names
        return dict(zip(names, np.bincount(types[types >= 0], minlength=len(names)).tolist(), strict=True))


def lay_out(
    section: Section,
    reader: SlideReader,
    nuclei: Nuclei,
    labels: NucleusLabels,
    options: WriteOptions,
    to_image: Floats,
    spots: pd.DataFrame | None,
) -> PatchLayout:
    """Lay out the patches of a section; arguments as of ``write_set``.

    Raises:
        InputError: a patch is larger than the image, no cell lies in the image, or too few places for two regions.
    """
    mpp = np.array([reader.mpp_x, reader.mpp_y])
    size = (reader.width, reader.height)
    # Level-0 px per px of a patch; 1 where the resolution is nearly that of the image.
    step = np.where(np.abs(options.mpp / mpp - 1) <= SAME_MPP, 1.0, options.mpp / mpp)
    side = options.px * step
    if (np.array(size) < side).any():
        patch = f"{side[0]:.0f} x {side[1]:.0f} px there"
        raise InputError(
            f"{reader.file}: {size[0]} x {size[1]} px, smaller than a patch, which is {patch}; choose a smaller px"
        )
    points, cells = nuclei.points, apply(to_image, section.points)
    grid = lay_grid(cells, side, size)
    if not len(grid):
        raise InputError(
            f"section {section.name!r}: no cell lies in the image {reader.file} of {size[0]} x {size[1]} px; check"
            " the alignment"
        )
    has_cells = field_shares(grid, cells, options.field_um / mpp) >= LEAST_FIELD
    place = grid.place_of(points)
    place[~has_cells[place]] = -1
    order = np.argsort(place, kind="stable")
    order = order[place[order] >= 0]
    starts = np.searchsorted(place[order], np.arange(len(grid) + 1))
    made_spots = None
    if options.composition == "spots" and spots is not None:
        made_spots = measured_spots(spots, labels.names, to_image, mpp, points, grid)
    elif options.composition == "cells":
        made_spots = spots_of_cells(labels, points, options.spot_um / mpp, grid)
    layout = PatchLayout(nuclei, labels, options, grid, step, order, starts, made_spots, [])
    layout.regions.extend(_regions(section.name, layout, np.flatnonzero(has_cells)))
    return layout


def _regions(name: str, layout: PatchLayout, places: NDArray[np.int64]) -> list[Region]:
    """Leave out places, and put the others into regions and into their order."""
    labels, options = layout.labels, layout.options
    grid, order = layout.grid, layout.order
    place_of = np.repeat(np.arange(len(grid)), np.diff(layout.starts))

    def count(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Nuclei of each place."""
        return np.bincount(place_of, mask[order], minlength=len(grid)).astype(np.int64)[places]

    nuclei = weight = count(np.ones(len(labels.types), dtype=bool))
    reasons = np.full(len(places), "", dtype=object)
    if options.composition == "spots" and layout.spots is not None:
        reasons[~np.isin(places, layout.spots.places())] = NO_SPOT
    else:
        reasons[count(labels.paired) < options.min_share * nuclei] = FEW_PAIRED
        weight = count(labels.types >= 0)
    reasons[nuclei < options.min_nuclei] = FEW_NUCLEI
    usable = reasons == ""
    region = divide(grid.corners(places) + grid.side / 2, (weight * usable).astype(np.float64), options.regions)
    regions = []
    for number in range(int(region.max(initial=-1)) + 1):
        own = region == number
        shuffled = np.random.default_rng([options.seed, number]).permutation(places[own & usable])
        left_out = Counter(reasons[own & ~usable].tolist())
        regions.append(Region(f"{name} [region {number + 1}]", int(own.sum()), shuffled, left_out))
    if sum(len(each.places) > 0 for each in regions) < (2 if options.validation else 1):
        left = ", ".join(f"{n} {reason}" for reason, n in Counter(reasons[~usable].tolist()).items())
        raise InputError(
            f"section {name!r}: {int(usable.sum())} of {len(places)} places can be patches ({left or 'none left out'}),"
            " too few for two regions, one of them to validate on; choose a smaller px, or lower min_nuclei and"
            " min_share"
        )
    return regions
