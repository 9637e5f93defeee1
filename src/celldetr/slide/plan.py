"""What a run will read: tiles that own tissue, band by band. Settled before the model is asked anything."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.slide.grid import Grid, Tile, lay_grid
from celldetr.slide.options import PredictOptions
from celldetr.slide.reader import SlideReader
from celldetr.slide.tissue import find_tissue

WINDOW_STEP = 64  # px; windows have few different sizes, so that the model can still take several at once


@dataclass(frozen=True)
class Plan:
    """The tiles of a run, each trimmed to the tissue that it owns and what the model needs to see around that.

    Attributes:
        grid: all tiles.
        selected: (rows, columns) bool, those that are read.
        areas: (rows, columns) mm2 that each owns.
        tissue_mm2: area of tissue in the region; all of it where tissue is not looked for.
        extents: (rows, columns, 4) xyxy in model pixels, where each tile's tissue lies; None: anywhere.
        context: model pixels that are read around tissue, as far as the tile reaches.
    """

    grid: Grid
    selected: NDArray[np.bool_]
    areas: NDArray[np.float64]
    tissue_mm2: float
    extents: NDArray[np.float64] | None = None
    context: int = 0

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

    def area(self, tile: Tile) -> float:
        """mm2 that a tile owns."""
        return float(self.areas[tile.row, tile.column])

    @property
    def read_mm2(self) -> float:
        """Area that is read, overlaps counted once."""
        return float(self.areas[self.selected].sum())


def make_plan(reader: SlideReader, model_mpp: float, options: PredictOptions) -> Plan:
    """Lay the grid over a slide and choose the tiles that own tissue.

    Raises:
        InputError: the region lies outside the slide, or the slide is damaged.
    """
    region = _region(reader, options.region)
    scale = (model_mpp / reader.mpp_x, model_mpp / reader.mpp_y)
    grid = lay_grid(region, scale, options.tile, options.overlap, options.offset)
    shape = (len(grid.rows), len(grid.columns))
    owned = grid.owned()
    areas = ((owned[:, 2:] - owned[:, :2]).prod(1) * (reader.mpp / 1000) ** 2).reshape(shape)
    if not options.tissue:
        return Plan(grid, np.ones(shape, dtype=bool), areas, float(areas.sum()))
    mask = find_tissue(reader)
    selected = mask.touches(owned)
    extents = np.zeros((len(owned), 4))
    extents[selected] = mask.extents(owned[selected]) / grid.scale
    return Plan(
        grid, selected.reshape(shape), areas, mask.area_mm2(region), extents.reshape(*shape, 4), options.overlap // 2
    )


def _window(low: float, high: float, size: int) -> tuple[int, int]:
    """Start and length of the steps of an axis of a tile, 0 to ``size``, that cover an interval."""
    start = max(0, math.floor(low / WINDOW_STEP) * WINDOW_STEP)
    return start, min(size, math.ceil(high / WINDOW_STEP) * WINDOW_STEP) - start


def _region(reader: SlideReader, region: tuple[float, float, float, float] | None) -> tuple[float, float, float, float]:
    """The part of the slide to read: what is asked for, cut at the slide's border."""
    if region is None:
        return 0.0, 0.0, float(reader.width), float(reader.height)
    x, y, width, height = region
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + width, reader.width), min(y + height, reader.height)
    if x0 >= x1 or y0 >= y1:
        raise InputError(
            f"region {x:g},{y:g},{width:g},{height:g}: lies outside the slide of {reader.width} x {reader.height} px"
        )
    return x0, y0, x1 - x0, y1 - y0
