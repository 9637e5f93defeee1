"""Every nucleus from exactly one tile: no suppression of boxes against boxes, no duplicates, no seams.

A tile keeps the cells whose centre it owns (``grid``). But two tiles see a nucleus a fraction of a pixel apart, and one
on the line between two owners could be kept by both or by neither. So the line is settled in reading order: a tile
reaches ``REACH_UM`` over its upper and left lines, and drops what lies within ``REACH_UM`` of a cell that an earlier
tile kept. Two nuclei are never that close, two sightings of one nucleus never that far apart. Only the centres of the
last two rows of tiles are remembered.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.model.output import TileCells
from celldetr.slide.grid import Grid, Tile

LINKS = 9  # of a chain of cells that decide about each other
REACH_UM = 2.0  # half the diameter of a small nucleus; tiles disagree about a centre by a tenth of this


class Ownership:
    """Decides cell by cell, tile after tile in reading order, row after row.

    Args:
        scale: level-0 pixels per model pixel along x and y.
        model_mpp: micrometres per model pixel.
        bounds: (left, top, right, bottom) of the slide in level-0 pixels; boxes are cut there.
    """

    def __init__(self, scale: tuple[float, float], model_mpp: float, bounds: tuple[float, float, float, float]) -> None:
        self._scale = np.array(scale, dtype=np.float64)
        self._reach = REACH_UM / model_mpp  # model px
        self._bounds = bounds
        self._row = -1
        self._above = np.zeros((0, 2))  # centres kept in the row before, level-0 px
        self._here: list[NDArray[np.float64]] = []  # the same of this row, one array a tile

    def keep(self, tile: Tile, cells: TileCells) -> TileCells:
        """The cells of a tile that are its own, ordered by y, then x, with boxes in level-0 pixels."""
        self._enter(tile.row)
        boxes = cells.boxes.astype(np.float64) + np.array([tile.x, tile.y, tile.x, tile.y])
        x, y = centres(boxes).T
        left, top, right, bottom = tile.owner
        boxes *= np.tile(self._scale, 2)
        boxes[:, 0::2] = boxes[:, 0::2].clip(self._bounds[0], self._bounds[2])
        boxes[:, 1::2] = boxes[:, 1::2].clip(self._bounds[1], self._bounds[3])
        middles = centres(boxes)
        mine = (x >= left - self._reach) & (x < right) & (y >= top - self._reach) & (y < bottom)
        mine &= (boxes[:, 2:] > boxes[:, :2]).all(1)
        mine &= ~self._kept_already(tile, middles)
        index = np.flatnonzero(mine)
        index = index[np.lexsort((middles[index, 0], middles[index, 1]))]
        self._here.append(middles[index])
        return replace(cells.take(index), boxes=boxes[index])

    def _enter(self, row: int) -> None:
        if row != self._row:
            self._above = np.concatenate([np.zeros((0, 2)), *self._here])
            self._here = []
            self._row = row

    def _kept_already(self, tile: Tile, centres: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N,) whether an earlier tile kept a cell within reach of each centre."""
        kept, centres = np.concatenate([self._above, *self._here]) / self._scale, centres / self._scale
        left, top, right, bottom = tile.owner
        reach = self._reach
        near = (kept[:, 0] > left - 3 * reach) & (kept[:, 0] < right + 3 * reach)
        near &= (kept[:, 1] > top - 3 * reach) & (kept[:, 1] < bottom + 3 * reach)
        gap = np.hypot(*(centres[:, None] - kept[near][None]).transpose(2, 0, 1))
        return (gap < reach).any(1) if gap.shape[1] else np.zeros(len(centres), dtype=bool)


def influence(grid: Grid, model_mpp: float) -> tuple[float, float]:
    """How far from a cell a tile can own points and yet decide about it, level-0 pixels along x and y.

    A cell is dropped for one within ``REACH_UM`` that an earlier tile kept, which was not dropped for a third of a yet
    earlier tile, and so on. Every link of such a chain is another tile, and of these three along x and three along y
    lie near enough, if no three of the lines between tiles do.

    Raises:
        InputError: three lines lie so close.
    """
    reach = REACH_UM / model_mpp
    for axis in (grid.columns, grid.rows):
        lines = axis.cuts[1:-1]
        if (lines[2:] - lines[:-2]).min(initial=np.inf) < (2 * LINKS + 1) * reach:
            raise InputError(
                f"with a ROI, tiles must begin {LINKS * reach * 1.5:.0f} px of the model or more apart; give a larger"
                " `tile` or a smaller `overlap`"
            )
    return LINKS * reach * grid.scale[0], LINKS * reach * grid.scale[1]


def centres(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 4) xyxy -> (N, 2)."""
    boxes = boxes.astype(np.float64, copy=False)
    return (boxes[:, :2] + boxes[:, 2:]) / 2
