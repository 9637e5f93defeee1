"""Which patches of a section a training set has, with which nuclei, in which order; and their writing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Count, Mpp, Positive, Probability
from celldetr.data.patch_set import LARGEST_PX, SMALLEST_PX, PatchSetInfo, Position, SlideInfo, contents
from celldetr.data.patch_writer import PatchWriter
from celldetr.data.sample import UNKNOWN
from celldetr.data.shards import Encoding, Patch
from celldetr.data.sources import SAME_MPP
from celldetr.errors import InputError
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import DamageError
from celldetr.slide.pipeline import ahead, usable_threads
from celldetr.spatial.labelling import LabelOptions, NucleusLabels, digest, label_nuclei
from celldetr.spatial.regions import LEAST_FIELD, Grid, divide, field_shares, lay_grid
from celldetr.spatial.section import Nuclei, Section
from celldetr.spatial.spots import SpotSource, cell_spots, table_spots

if TYPE_CHECKING:
    import pandas as pd

AHEAD = 8  # patches read before they are asked for, and as many as there are threads
DAMAGED, FEW_NUCLEI, FEW_PAIRED, NO_SPOT = "damaged", "few nuclei", "few nuclei with a cell", "no whole spot"


class WriteOptions(LabelOptions):
    """Settings of the set. All of them decide what is in it."""

    mpp: Mpp = 0.4  # micrometres per pixel of the patches: that of the default model
    px: int = Field(320, ge=SMALLEST_PX, le=LARGEST_PX)  # side of a patch; training cuts 256 px, zoomed by .8 or more
    min_nuclei: int = Field(5, ge=0)  # of a patch
    # Of a patch's nuclei that have a cell: with fewer, image and section do not agree there.
    min_share: Probability = 0.3
    # Side of the squares by which it is seen where the section has cells; larger for a section with few of them.
    field_um: Positive = 25.0
    regions: Count = 10  # parts of the section that are held out, or not, as a whole
    validation: Probability = 0.2  # share of the regions in split val
    # Compositions of groups of nuclei, for ``training.w_composition``: of squares of ``spot_um``, from the
    # probabilities of the cells in them; or of measured spots, as Visium's.
    composition: Literal["none", "cells", "spots"] = "none"
    spot_um: Positive = 55.0
    seed: int = Field(0, ge=0)  # of the order of patches
    encoding: Encoding = "jpeg"
    shard: Count = 2000  # patches of a file


@dataclass
class Region:
    """One region, and what became of it so far."""

    name: str
    places: NDArray[np.int64]  # to be written, in their order
    left_out: dict[str, int] = field(default_factory=dict)
    looked_at: int = 0
    patches: int = 0
    nuclei: int = 0


@dataclass
class Plan:
    """Which patches, with which nuclei, in which order."""

    reader: SlideReader
    options: WriteOptions
    grid: Grid
    step: NDArray[np.float64]  # (2,) level-0 px per px of a patch
    boxes: NDArray[np.float64]  # (M, 4) of the nuclei in patches, by place, level-0 px
    scores: NDArray[np.float32]
    order: NDArray[np.int64]  # (M,) which nucleus each is
    starts: NDArray[np.int64]  # (places + 1,) first nucleus of each place
    labels: NucleusLabels
    spots: SpotSource | None
    regions: list[Region]
    donor: str

    @classmethod
    def make(
        cls,
        section: Section,
        reader: SlideReader,
        nuclei: Nuclei,
        pairs: pd.DataFrame | None,
        types: pd.DataFrame | None,
        options: WriteOptions,
        affine: NDArray[np.float64] | None,
        type_names: Sequence[str] | None,
        table: pd.DataFrame | None,
        donor: str,
    ) -> Plan:
        """Decide what is written; arguments and errors as of ``write_set``."""
        names = type_names
        if options.composition == "spots":
            if table is None or affine is None:
                raise InputError("composition='spots' needs a table of spots, and the affine that says where they are")
            names = names or SpotSource.names_of(table)
        labels = label_nuclei(len(nuclei), pairs, types, options, names)
        if options.composition != "spots" and not labels.counts.get("labelled"):
            told = ", ".join(f"{count:,} {what}" for what, count in labels.counts.items())
            raise InputError(f"no nucleus is sure of its type ({told}); check the alignment and the types")
        own = np.array([reader.mpp_x, reader.mpp_y])
        step = np.where(np.abs(options.mpp / own - 1) <= SAME_MPP, 1.0, options.mpp / own)
        side = options.px * step
        size = (reader.width, reader.height)
        if (np.array(size) < side).any():
            there = f"{side[0]:.0f} x {side[1]:.0f} px there"
            raise InputError(
                f"{reader.file}: {size[0]} x {size[1]} px, smaller than a patch, which is {there}; choose a smaller px"
            )
        points = nuclei.points
        cells = points[labels.paired] if affine is None else section.points @ affine[:2, :2].T + affine[:2, 2]
        grid = lay_grid(cells, side, size)
        if not len(grid):
            raise InputError(
                f"section {section.name!r}: no cell lies in the image {reader.file} of {size[0]} x {size[1]} px; check"
                " the alignment"
            )
        within = field_shares(grid, cells, options.field_um / own) >= LEAST_FIELD
        place = grid.place_of(points)
        flat = ~(nuclei.boxes[:, 2:] > nuclei.boxes[:, :2]).all(1)
        place[flat] = -1
        place[place >= 0] = np.where(within[place[place >= 0]], place[place >= 0], -1)
        order = np.argsort(place, kind="stable")
        order = order[place[order] >= 0]
        starts = np.searchsorted(place[order], np.arange(len(grid) + 1))
        plan = cls(
            reader=reader,
            options=options,
            grid=grid,
            step=step,
            boxes=nuclei.boxes[order].astype(np.float64),
            scores=np.clip(nuclei.scores[order], 0, 1).astype(np.float32),
            order=order,
            starts=starts,
            labels=labels,
            spots=None,
            regions=[],
            donor=donor,
        )
        if options.composition == "spots" and table is not None and affine is not None:
            plan.spots = table_spots(table, labels.names, affine, own, points, grid)
        elif options.composition == "cells":
            plan.spots = cell_spots(labels, points, options.spot_um / own, grid)
        plan._divide(section.name, np.flatnonzero(within))
        return plan

    def _divide(self, name: str, places: NDArray[np.int64]) -> None:
        """Leave out places, and put the others into regions and into their order."""
        options = self.options
        of_place = np.repeat(np.arange(len(self.grid)), np.diff(self.starts))

        def count(values: NDArray[np.bool_]) -> NDArray[np.int64]:
            return np.bincount(of_place, values[self.order], minlength=len(self.grid)).astype(np.int64)[places]

        everything = np.ones(len(self.labels.types), dtype=bool)
        nuclei, labelled = count(everything), count(self.labels.types >= 0)
        reasons = np.full(len(places), "", dtype=object)
        if options.composition == "spots" and self.spots is not None:
            whole = self.spots.whole(places)
            reasons[~whole] = NO_SPOT
            weight = nuclei
        else:
            reasons[count(self.labels.paired) < options.min_share * nuclei] = FEW_PAIRED
            weight = labelled
        reasons[nuclei < options.min_nuclei] = FEW_NUCLEI
        kept = reasons == ""
        centres = self.grid.corners(places) + self.grid.side / 2
        region = divide(centres, (weight * kept).astype(np.float64), options.regions)
        for number in range(int(region.max(initial=-1)) + 1):
            own = region == number
            chosen = places[own & kept]
            rng = np.random.default_rng([options.seed, number])
            found, counts = np.unique(reasons[own & ~kept].astype(str), return_counts=True)
            left = dict(zip(found.tolist(), counts.tolist(), strict=True))
            whole_name = f"{name} [region {number + 1}]"
            self.regions.append(Region(whole_name, rng.permutation(chosen), left, looked_at=int((own & ~kept).sum())))
        usable = sum(len(each.places) > 0 for each in self.regions)
        if usable < (2 if options.validation else 1):
            left_out = contents(self._infos(len(self.regions)))
            told = ", ".join(f"{n} {what}" for what, n in left_out.items()) or "none left out"
            raise InputError(
                f"section {name!r}: {int(kept.sum())} of {len(places)} places can be patches ({told}), too few for two"
                " regions, one of them to validate on; choose a smaller px, or lower min_nuclei and min_share"
            )

    def made_with(
        self,
        section: Section,
        nuclei: Nuclei,
        pairs: pd.DataFrame | None,
        types: pd.DataFrame | None,
        spots: pd.DataFrame | None,
        affine: NDArray[np.float64] | None,
        licence: str,
    ) -> dict[str, Any]:
        """What the set is made of; JSON-able."""
        state = hashlib.sha256()
        for array in (nuclei.boxes, nuclei.scores):
            state.update(np.ascontiguousarray(array).tobytes())
        tables = {"pairs": pairs, "types": types, "spots": spots}
        return {
            "version": version("celldetr"),
            "step": "spatial write",
            "options": self.options.model_dump(mode="json"),
            "section": {"name": section.name, "cells": section.cells.n_obs, "source": section.source},
            "donor": self.donor,
            "image": {
                "file": self.reader.file,
                "size": [self.reader.width, self.reader.height],
                "bytes": self.reader.size_bytes,
                "mpp": [self.reader.mpp_x, self.reader.mpp_y],
            },
            "affine": None if affine is None else np.asarray(affine, np.float64).tolist(),
            "nuclei": nuclei.source,
            "sha256": {"nuclei": state.hexdigest()}
            | {name: digest(table) for name, table in tables.items() if table is not None},
            "counts": {"cells": section.cells.n_obs, "cells with a type": 0 if types is None else len(types)}
            | self.labels.counts,
            "labelled_by_region": {each.name: self._types_of(each) for each in self.regions},
            "licence": licence,
        }

    def _types_of(self, region: Region) -> dict[str, int]:
        """Labelled nuclei of each type in a region's patches."""
        parts = [self.order[self.starts[place] : self.starts[place + 1]] for place in region.places]
        own = self.labels.types[np.concatenate([np.zeros(0, np.int64), *parts])]
        counts = np.bincount(own[own >= 0], minlength=len(self.labels.names))
        return dict(zip(self.labels.names, counts.tolist(), strict=True))

    def write(self, writer: PatchWriter, progress: Callable[[float], None] | None) -> PatchSetInfo:
        """Write all of it."""
        total = max(sum(len(each.places) for each in self.regions), 1)
        done = 0
        threads = usable_threads()
        for number, region in enumerate(self.regions):
            todo = region.places.tolist()
            with closing(ahead(self._read, todo, AHEAD + threads, threads)) as images:
                for place, (which, image) in enumerate(zip(todo, images, strict=True)):
                    region.looked_at += 1
                    if image is None:
                        region.left_out[DAMAGED] = region.left_out.get(DAMAGED, 0) + 1
                    else:
                        patch = self._patch(region, which, image)
                        writer.add(patch)
                        region.patches += 1
                        region.nuclei += len(patch.boxes)
                    done += 1
                    if not writer.room:
                        writer.close_shard(self._infos(number + 1), Position(slide=number, place=place + 1))
                    if progress is not None:
                        progress(done / total)
        writer.close_shard(self._infos(len(self.regions)), None)
        return writer.info

    def _read(self, place: int) -> NDArray[np.uint8] | None:
        """Pixels of a place; None where the file is damaged. Called from several threads."""
        (x, y), (width, height) = self.grid.corners(np.array([place]))[0].tolist(), self.grid.side.tolist()
        try:
            return self.reader.read_region(x, y, width, height, self.options.px, self.options.px)
        except DamageError:
            return None

    def _patch(self, region: Region, place: int, image: NDArray[np.uint8]) -> Patch:
        px, labels = self.options.px, self.labels
        rows = slice(int(self.starts[place]), int(self.starts[place + 1]))
        corner = self.grid.corners(np.array([place]))[0]
        boxes = np.clip((self.boxes[rows] - np.tile(corner, 2)) / np.tile(self.step, 2), 0, px).astype(np.float32)
        there = (boxes[:, 2:] > boxes[:, :2]).all(1)  # a sliver at the edge may be lost in rounding
        own = self.order[rows][there]
        types = labels.types[own]
        return Patch(
            slide=region.name,
            x=float(corner[0]),
            y=float(corner[1]),
            mpp=self.options.mpp,
            image=image,
            boxes=boxes[there],
            scores=self.scores[rows][there],
            types=types,
            confidence=np.where(types == UNKNOWN, 1, labels.confidence[own]) if self.options.confidence else None,
            spots=None if self.spots is None else self.spots.of_place(place, own),
        )

    def _infos(self, count: int) -> list[SlideInfo]:
        return [
            SlideInfo(
                name=each.name,
                file=self.reader.file,
                places=len(each.places) + sum(n for why, n in each.left_out.items() if why != DAMAGED),
                looked_at=each.looked_at,
                patches=each.patches,
                nuclei=each.nuclei,
                left_out=dict(sorted(each.left_out.items())),
                group=self.donor,
            )
            for each in self.regions[:count]
        ]
