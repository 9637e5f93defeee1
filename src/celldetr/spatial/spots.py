"""Compositions of groups of nuclei: measured spots (Visium), or squares of cells whose types are known one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.data.spots import NO_SPOT, Spots, is_composition
from celldetr.errors import InputError
from celldetr.spatial.affine import Floats, apply
from celldetr.spatial.nucleus_labels import NucleusLabels
from celldetr.spatial.patch_grid import PatchGrid
from celldetr.spatial.section import PROBABILITY, X, Y

if TYPE_CHECKING:
    import pandas as pd

DIAMETER = "diameter_um"


@dataclass(frozen=True)
class SectionSpots:
    """The spots of a section."""

    compositions: NDArray[np.float32]  # (S, K) shares of the types
    spot: NDArray[np.int64]  # (M,) of each nucleus, or ``NO_SPOT``
    place: NDArray[np.int64]  # (S,) the place of the grid that each spot is wholly in, or -1

    def places(self) -> NDArray[np.int64]:
        """Places of the grid with a spot that holds nuclei and is wholly there."""
        return self.place[np.unique(self.spot[self.spot >= 0])]

    def of_place(self, place: int, nuclei: NDArray[np.int64]) -> Spots | None:
        """Spots wholly in a place, for the nuclei in it (their positions); None: there are none."""
        there, number = np.unique(self.spot[nuclei], return_inverse=True)
        inside = (there >= 0) & (self.place[there] == place)
        if not inside.any():
            return None
        new = np.where(inside, np.cumsum(inside) - 1, NO_SPOT)
        return Spots(new[number].astype(np.int64), self.compositions[there[inside]])


def spot_types(table: pd.DataFrame) -> tuple[str, ...]:
    """The types of a table of spots."""
    return tuple(str(c)[len(PROBABILITY) :] for c in table.columns if str(c).startswith(PROBABILITY))


def measured_spots(
    table: pd.DataFrame, names: Sequence[str], to_image: Floats, mpp: Floats, points: Floats, grid: PatchGrid
) -> SectionSpots:
    """Measured spots; the nuclei with their centre in a spot belong to it, to the nearest if spots overlap.

    The ``table`` is that of ``write_set``, ``points`` are (M, 2) centres of the nuclei, level-0 px.
    """
    from scipy.spatial import cKDTree

    if not {X, Y, DIAMETER} <= set(table.columns) or not names or not len(table):
        raise InputError(
            f"spots: {len(table)} rows with columns {', '.join(map(str, table.columns))}; expected {X}, {Y}, {DIAMETER}"
            f" and a column '{PROBABILITY}NAME' for each type"
        )
    shares = table[[PROBABILITY + name for name in names]].to_numpy(np.float32)
    diameter = table[DIAMETER].to_numpy(np.float64)
    if not is_composition(shares):
        raise InputError("spots: the shares of the types must be 0 to 1 and sum to 1 in each spot")
    if not (diameter > 0).all():
        raise InputError(f"spots: {DIAMETER} {np.nanmin(diameter)}; expected a positive number of micrometres")
    centres = apply(to_image, table[[X, Y]].to_numpy(np.float64))
    # Micrometres of the image, in which a spot is a circle.
    distance, nearest = cKDTree(centres * mpp).query(points * mpp)
    spot = np.where(distance <= diameter[nearest] / 2, nearest, NO_SPOT).astype(np.int64)
    low, high = (grid.place_of(centres + sign * diameter[:, None] / 2 / mpp) for sign in (-1, 1))
    return SectionSpots(shares, spot, np.where(low == high, low, -1))


def spots_of_cells(labels: NucleusLabels, points: Floats, size: Floats, grid: PatchGrid) -> SectionSpots:
    """Squares of a patch as spots; the composition of each is the mean of its typed cells, which alone belong to it.

    A square is (2,) ``size`` at least, so that a patch has whole ones; ``points`` are the centres of the nuclei.
    """
    place = grid.place_of(points)
    typed = np.flatnonzero((place >= 0) & (labels.shares.sum(axis=1) > 0))
    columns, rows = np.maximum(np.floor(grid.side / size + 1e-9), 1).astype(np.int64)
    within = (points[typed] - grid.corners(place[typed])) / grid.side  # 0 to 1
    column, row = np.clip((within * (columns, rows)).astype(np.int64), 0, (columns - 1, rows - 1)).T
    squares, number = np.unique((place[typed] * rows + row) * columns + column, return_inverse=True)
    sums = np.zeros((len(squares), len(labels.names)), np.float64)
    np.add.at(sums, number, labels.shares[typed])
    spot = np.full(len(points), NO_SPOT, dtype=np.int64)
    spot[typed] = number
    compositions = (sums / sums.sum(axis=1, keepdims=True)).astype(np.float32)
    return SectionSpots(compositions, spot, squares // (rows * columns))
