"""The tiles that a run will read: those that own tissue (in the ROI), by rows of the grid (bands)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.colour import GREY_NOTE
from celldetr.slide.grid import Grid, Tile, lay_grid
from celldetr.slide.options import PredictOptions
from celldetr.slide.roi import RoiCells, place_roi, share_of_pixels
from celldetr.slide.seams import influence
from celldetr.slide.stain_check import HINTS, Looks, stain_of
from celldetr.slide.tissue import find_tissue

if TYPE_CHECKING:
    from celldetr.model.output import TileModel

WINDOW_STEP = 128  # px; windows have few sizes, because a network prepares for each size anew, and keeps it


@dataclass(frozen=True)
class Plan:
    """The tiles of a run, each trimmed to the tissue that it owns and the context that the model needs."""

    grid: Grid  # all tiles
    selected: NDArray[np.bool_]  # (rows, columns) bool, those that are read
    areas: NDArray[np.float64]  # (rows, columns) mm2 that each owns
    tissue_mm2: float  # area of tissue in the region (and ROI); all of it where tissue is not looked for
    # (rows, columns, 4) xyxy in model pixels, where each tile's tissue lies; None: anywhere
    extents: NDArray[np.float64] | None = None
    context: int = 0  # model pixels that are read around tissue, as far as the tile reaches
    roi: RoiCells | None = None  # cells outside are dropped; None: none is
    notes: tuple[str, ...] = ()  # warnings, one sentence each
    looks: Looks | None = None  # what the tissue is stained with, see ``with_stain``; None: not looked at, or grey

    @property
    def bands(self) -> list[int]:
        """Rows of the grid with at least one tile to read."""
        return [int(row) for row in np.flatnonzero(self.selected.any(1))]

    def tiles(self, band: int) -> list[Tile]:
        """The tiles to read of a row, from left to right."""
        return [self._trimmed(self.grid.tile(band, int(column))) for column in np.flatnonzero(self.selected[band])]

    def _trimmed(self, tile: Tile) -> Tile:
        if self.extents is None:
            return tile
        x0, y0, x1, y1 = self.extents[tile.row, tile.column]
        x, width = _window(x0 - self.context - tile.x, x1 + self.context - tile.x, tile.width)
        y, height = _window(y0 - self.context - tile.y, y1 + self.context - tile.y, tile.height)
        return replace(tile, x=tile.x + x, y=tile.y + y, width=width, height=height)

    def boxes(self) -> NDArray[np.float64]:
        """(N, 4) xyxy in level-0 pixels, where the tissue of each tile to read lies, or what it owns."""
        selected = self.selected.reshape(-1)
        if self.extents is None:
            return self.grid.owned()[selected]
        return self.extents.reshape(-1, 4)[selected] * np.tile(self.grid.scale, 2)

    def area(self, tile: Tile) -> float:
        """mm2 that a tile owns."""
        return float(self.areas[tile.row, tile.column])

    def count(self, bands: Sequence[int]) -> int:
        """Tiles to read in some rows."""
        return int(self.selected[list(bands)].sum())

    def area_of(self, bands: Sequence[int]) -> float:
        """mm2 that these tiles own."""
        rows = list(bands)
        return float(self.areas[rows][self.selected[rows]].sum())

    def regions(self, bands: Sequence[int], least: int) -> list[list[int]]:
        """Share out rows, in their order, into regions of at least ``least`` tiles; the last may have fewer."""
        regions: list[list[int]] = []
        tiles = least
        for band in bands:
            if tiles >= least:
                regions.append([])
                tiles = 0
            regions[-1].append(band)
            tiles += self.count([band])
        return regions


def make_plan(reader: SlideReader, model: TileModel, options: PredictOptions) -> Plan:
    """Lay the grid over a slide and choose the tiles that own tissue.

    Raises:
        InputError: the region lies outside the slide, the slide is damaged, the overlap is too large for the tiles
            that the model needs, or the options name another mpp than the slide was opened with.
    """
    if options.mpp is not None and options.mpp != reader.mpp:
        raise InputError(f"mpp={options.mpp:g} in the options, but the slide was opened with {reader.mpp:g}")
    region = _region(reader, options.region)
    roi = _roi(reader, options)
    scale = (model.mpp / reader.mpp_x, model.mpp / reader.mpp_y)
    grid = lay_grid(region, scale, options.tile_for(model.image_px), options.overlap, options.offset)
    shape = (len(grid.rows), len(grid.columns))
    owned = grid.owned()
    inside = None if roi is None else RoiCells(roi, influence(grid, model.mpp))
    near = np.ones(shape, dtype=bool) if inside is None else inside.touches(owned).reshape(shape)
    if roi is not None:
        x, y, width, height = region
        roi = shapely.intersection(roi, shapely.box(x, y, x + width, y + height))
        if options.region is not None and not roi.area:
            raise InputError(
                f"`roi` lies outside of `region={x:g} {y:g} {width:g} {height:g}`: nothing is left to look at"
            )
    areas = ((owned[:, 2:] - owned[:, :2]).prod(1) * (reader.mpp / 1000) ** 2).reshape(shape)
    if not options.tissue:
        everything = float(areas.sum()) if roi is None else roi.area * (reader.mpp / 1000) ** 2
        return Plan(grid, near, areas, everything, roi=inside)
    mask = find_tissue(reader)
    selected = near.reshape(-1) & mask.touches(owned)
    # The tissue decides what is read of a tile, not the ROI: the model is to see what it would see without one.
    extents = np.zeros((len(owned), 4))
    extents[selected] = mask.extents(owned[selected]) / np.tile(grid.scale, 2)
    grey = (GREY_NOTE,) if mask.grey and mask.mask.any() and GREY_NOTE not in reader.warnings else ()
    share = None if roi is None else share_of_pixels(roi, mask.core.shape, mask.scale)
    return Plan(
        grid,
        selected.reshape(shape),
        areas,
        mask.area_mm2(region if share is None else None, share),
        None if model.image_px else extents.reshape(*shape, 4),  # all of a tile, where sizes are fractions of it
        options.overlap // 2,
        inside,
        notes=grey,
    )


def checked_plan(reader: SlideReader, model: TileModel, options: PredictOptions) -> Plan:
    """``make_plan`` and ``with_stain``: for a run whose warnings somebody reads."""
    return with_stain(make_plan(reader, model, options), reader, any_stain=options.any_stain)


def with_stain(plan: Plan, reader: SlideReader, *, any_stain: bool) -> Plan:
    """A plan with what its tissue is stained with, and a warning if that is no H&E.

    Raises:
        InputError: it is fluorescence, and not ``any_stain`` goes.
    """
    boxes = plan.boxes()
    if not len(boxes) or GREY_NOTE in (*reader.warnings, *plan.notes):
        return plan
    looks = stain_of(reader, boxes)
    if looks == "fluorescence" and not any_stain:
        about = "".join(f" ({note})" for note in reader.warnings)  # 12 bits in 16 look black, too
        raise InputError(
            f"{reader.file or reader.name}: {HINTS[looks]}: what it finds here is not to be trusted{about}. If it is "
            "H&E all the same, set `any_stain`"
        )
    return replace(plan, looks=looks, notes=plan.notes if looks == "H&E" else (*plan.notes, HINTS[looks]))


def _window(low: float, high: float, size: int) -> tuple[int, int]:
    """Start and length of the steps of an axis of a tile, 0 to ``size``, that cover an interval."""
    start = max(0, math.floor(low / WINDOW_STEP) * WINDOW_STEP)
    return start, min(size, math.ceil(high / WINDOW_STEP) * WINDOW_STEP) - start


def _roi(reader: SlideReader, options: PredictOptions) -> shapely.MultiPolygon | None:
    """The region of interest in level-0 pixels, if there is one and some of it lies on the slide."""
    roi = place_roi(options.roi, options.roi_origin, reader.bounds)
    if roi is None or shapely.intersects(roi, shapely.box(0, 0, reader.width, reader.height)):
        return roi
    x0, y0, x1, y1 = roi.bounds
    raise InputError(
        f"the ROI spans x {x0:g} to {x1:g}, y {y0:g} to {y1:g}: outside the slide of {reader.width} x {reader.height} "
        "px; is it of another slide, or of a downsampled copy?"
    )


def _region(reader: SlideReader, region: tuple[float, float, float, float] | None) -> tuple[float, float, float, float]:
    """The region that is asked for, cut at the slide's border."""
    if region is None:
        return 0.0, 0.0, float(reader.width), float(reader.height)
    x, y, width, height = region
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + width, reader.width), min(y + height, reader.height)
    if x0 >= x1 or y0 >= y1:
        raise InputError(
            f"region {x:g},{y:g},{width:g},{height:g}: lies outside the slide of {reader.width} x {reader.height} px"
        )
    return x0, y0, x1 - x0, y1 - y0
