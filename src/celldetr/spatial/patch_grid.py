"""Grid of places for the patches of a section, and its division into regions that are held out as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.spatial.affine import Floats

LEAST_FIELD = 0.5  # share of a patch that must lie where the section has cells


@dataclass(frozen=True)
class PatchGrid:
    """Places for patches, beside each other."""

    origin: Floats  # (2,) top left corner of the first, level-0 px
    side: Floats  # (2,) of a place, level-0 px
    shape: tuple[int, int]  # places along x and y

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]

    def place_of(self, points: Floats) -> NDArray[np.int64]:
        """(N,) place that each point (N, 2) lies in, row by row; -1 for none."""
        at = np.floor((points - self.origin) / self.side)
        inside = np.asarray(((at >= 0) & (at < np.array(self.shape))).all(1), dtype=bool)  # False for what is no number
        cell = np.where(inside[:, None], at, 0).astype(np.int64)
        return np.where(inside, cell[:, 1] * self.shape[0] + cell[:, 0], -1)

    def corners(self, places: NDArray[np.int64]) -> Floats:
        """(N, 2) top left corners of places, level-0 px."""
        columns, rows = places % self.shape[0], places // self.shape[0]
        return self.origin + np.stack([columns, rows], axis=1) * self.side


def lay_grid(points: Floats, side: Floats, size: tuple[int, int]) -> PatchGrid:
    """A grid of places of a (2,) side over (N, 2) cells; no place reaches beyond an image of this width and height."""
    within = points[((points >= 0) & (points < size)).all(1)]
    if not len(within):
        return PatchGrid(np.zeros(2), side, (0, 0))
    low, high = within.min(axis=0), within.max(axis=0)
    most = np.floor(np.array(size) / side + 1e-9)
    count = np.minimum(np.maximum(np.ceil((high - low) / side), 1), most)
    origin = np.clip((low + high - count * side) / 2, 0, np.maximum(size - count * side, 0))
    return PatchGrid(np.floor(origin), side, (int(count[0]), int(count[1])))


def field_shares(grid: PatchGrid, points: Floats, bin_px: Floats) -> Floats:
    """Share of each of P places that lies where the section has cells: between them too, but not beyond.

    ``bin_px`` is the (2,) side of the squares by which that is seen, rounded so that a place has whole ones.
    """
    from scipy import ndimage

    per = np.maximum(np.round(grid.side / bin_px), 1).astype(np.int64)  # squares of a place along x and y
    across, down = np.array(grid.shape) * per
    bins = grid.side / per
    fine = PatchGrid(grid.origin - 2 * bins, bins, (int(across) + 4, int(down) + 4))  # what lies around it closes it
    held = np.zeros(len(fine), dtype=bool)
    at = fine.place_of(points)
    held[at[at >= 0]] = True
    # Gaps of two squares between cells, and holes, belong to it; the outline stays where the outermost cells are.
    closed = ndimage.binary_closing(np.pad(held.reshape(down + 4, across + 4), 2), np.ones((3, 3), dtype=bool))
    field = ndimage.binary_fill_holes(closed)[4:-4, 4:-4]
    shares: Floats = field.reshape(grid.shape[1], per[1], grid.shape[0], per[0]).mean(axis=(1, 3))
    return shares.reshape(-1)


def divide(centres: Floats, weights: Floats, count: int) -> NDArray[np.int64]:
    """Divide N places into regions: rectangles of about equal weight, by cuts across the longer side (a k-d tree).

    There are fewer regions than ``count`` where there are fewer places.
    """
    out = np.zeros(len(centres), dtype=np.int64)

    def cut(members: NDArray[np.int64], count: int, first: int) -> None:
        """Number the regions of some places from ``first`` on."""
        out[members] = first
        if count < 2 or len(members) < 2:
            return
        extent = np.ptp(centres[members], axis=0)
        values, line = np.unique(centres[members, int(extent[1] > extent[0])], return_inverse=True)
        if len(values) < 2:
            return
        left = count // 2
        sums = np.cumsum(np.bincount(line, weights[members]))
        lines = 1 + int(np.argmin(np.abs(sums[:-1] - sums[-1] * left / count)))  # of places before the cut
        cut(members[line < lines], left, first)
        cut(members[line >= lines], count - left, first + left)

    cut(np.arange(len(centres)), min(count, len(centres)), 0)
    return np.unique(out, return_inverse=True)[1].astype(np.int64)  # a region that could not be filled is none
