"""What a run will read: tiles that own tissue, band by band. Settled before the model is asked anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.slide.grid import Grid, Tile, lay_grid
from celldetr.slide.options import PredictOptions
from celldetr.slide.reader import SlideReader
from celldetr.slide.tissue import find_tissue


@dataclass(frozen=True)
class Plan:
    """The tiles of a run.

    Attributes:
        grid: all tiles.
        selected: (rows, columns) bool, those that are read.
        areas: (rows, columns) mm2 that each owns.
        tissue_mm2: area of tissue in the region; all of it where tissue is not looked for.
    """

    grid: Grid
    selected: NDArray[np.bool_]
    areas: NDArray[np.float64]
    tissue_mm2: float

    @property
    def bands(self) -> list[int]:
        """Rows of the grid with at least one tile to read."""
        return [int(row) for row in np.flatnonzero(self.selected.any(1))]

    def tiles(self, band: int) -> list[Tile]:
        """The tiles to read of a row, from left to right."""
        return [self.grid.tile(band, int(column)) for column in np.flatnonzero(self.selected[band])]

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
    grid = lay_grid(region, model_mpp / reader.mpp, options.tile, options.overlap, options.offset)
    shape = (len(grid.rows), len(grid.columns))
    owned = grid.owned()
    areas = ((owned[:, 2:] - owned[:, :2]).prod(1) * (reader.mpp / 1000) ** 2).reshape(shape)
    if not options.tissue:
        return Plan(grid, np.ones(shape, dtype=bool), areas, float(areas.sum()))
    mask = find_tissue(reader)
    return Plan(grid, mask.touches(owned).reshape(shape), areas, mask.area_mm2(region))


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
