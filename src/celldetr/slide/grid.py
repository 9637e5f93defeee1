"""Where tiles lie and which tile owns a point: pure geometry, in pixels of the model's own resolution.

Tiles have whole sides; their corners are any floats, so no micrometres-per-pixel ratio is special and nothing is
rounded twice. The last tile of a row is pushed back to fit. Two neighbours share out their overlap at its middle,
wherever it is: a fixed margin would count cells twice where the push makes an overlap wider. A tile therefore sees at
least half an overlap beyond all it owns, except at the border of the slide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-6  # px by which a length may miss a whole number and still be one


@dataclass(frozen=True)
class Axis:
    """Tiles along x or along y."""

    starts: NDArray[np.float64]  # (n,) where tiles begin, rising
    size: int  # their common side, px
    # (n + 1,) tile i owns [cuts[i], cuts[i + 1]); the first is -inf and the last inf, because a box at the border may
    # have its centre just outside
    cuts: NDArray[np.float64]
    # where the slide (or region) ends; the last tile ends less than a pixel after it, and only if it is the one
    end: float

    def __len__(self) -> int:
        return len(self.starts)


def lay_axis(origin: float, length: float, tile: int, overlap: int, offset: float = 0.0) -> Axis:
    """Cover an interval, in model pixels, with tiles whose neighbours overlap by at least ``overlap``.

    All but the first lie ``offset``, modulo the stride, earlier, which moves the seams.
    """
    whole = round(length)
    length = float(whole) if whole and abs(length - whole) < ROUNDING else length
    stride = tile - overlap
    last = length - tile
    if last <= 0:
        starts, size = np.zeros(1), max(1, math.ceil(length))
    else:
        inner = np.arange(1, math.ceil(last / stride) + 2) * stride - offset % stride
        starts, size = np.concatenate([[0.0], inner[(inner > 0) & (inner < last)], [last]]), tile
    cuts = np.concatenate([[-np.inf], origin + (starts[1:] + starts[:-1] + size) / 2, [np.inf]])
    return Axis(origin + starts, size, cuts, origin + length)


@dataclass(frozen=True)
class Tile:
    """One tile: its place in the grid, its rectangle and what it owns, in model pixels from the slide's origin."""

    row: int  # in the grid
    column: int
    x: float  # top left corner
    y: float
    width: int  # whole pixels
    height: int
    # (left, top, right, bottom), half-open; infinite at the border of the slide
    owner: tuple[float, float, float, float]


@dataclass(frozen=True)
class Grid:
    """All tiles of a slide or region."""

    columns: Axis  # tiles along x and along y
    rows: Axis
    scale: tuple[float, float]  # level-0 pixels per model pixel along x and y

    def __len__(self) -> int:
        return len(self.columns) * len(self.rows)

    def tile(self, row: int, column: int) -> Tile:
        """The tile at a place in the grid."""
        cx, cy = self.columns.cuts, self.rows.cuts
        return Tile(
            row,
            column,
            float(self.columns.starts[column]),
            float(self.rows.starts[row]),
            self.columns.size,
            self.rows.size,
            (float(cx[column]), float(cy[row]), float(cx[column + 1]), float(cy[row + 1])),
        )

    def owned(self) -> NDArray[np.float64]:
        """(tiles, 4) xyxy in level-0 pixels: what each owns of the slide or region, row by row."""
        x0, x1 = _inside(self.columns)
        y0, y1 = _inside(self.rows)
        boxes = np.broadcast_arrays(x0[None], y0[:, None], x1[None], y1[:, None])
        return np.stack(boxes, -1).reshape(-1, 4) * np.tile(self.scale, 2)

    def place(self, tile: Tile) -> tuple[float, float, float, float]:
        """x, y, width and height of what a tile owns of the slide or region, level-0 pixels."""
        x0, y0, x1, y1 = self.owned()[tile.row * len(self.columns) + tile.column].tolist()
        return x0, y0, x1 - x0, y1 - y0


def _inside(axis: Axis) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    edges = axis.cuts.clip(axis.starts[0], axis.end)
    return edges[:-1], edges[1:]


def lay_grid(
    region: tuple[float, float, float, float], scale: tuple[float, float], tile: int, overlap: int, offset: float = 0.0
) -> Grid:
    """Cover a region (x, y, width, height in level-0 pixels) with tiles, see ``lay_axis`` and ``Grid.scale``."""
    x, y, width, height = (value / step for value, step in zip(region, scale * 2, strict=True))
    return Grid(lay_axis(x, width, tile, overlap, offset), lay_axis(y, height, tile, overlap, offset), scale)
