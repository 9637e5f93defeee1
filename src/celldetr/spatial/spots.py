"""Compositions of groups of nuclei: measured spots (Visium), or squares of cells whose types are known one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.data.spots import NO_SPOT, Spots, is_composition
from celldetr.errors import InputError
from celldetr.spatial.affine import apply
from celldetr.spatial.nucleus_labels import NucleusLabels
from celldetr.spatial.patch_grid import Grid
from celldetr.spatial.section import PROBABILITY, X, Y

if TYPE_CHECKING:
    import pandas as pd

DIAMETER = "diameter_um"


class SpotSource(ABC):
    """Spots of the patches of a section."""

    @abstractmethod
    def of_place(self, place: int, nuclei: NDArray[np.int64]) -> Spots | None:
        """Spots wholly in a place, for the nuclei in it (their indices); None: there are none."""

    @abstractmethod
    def whole(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(P,) which places have a spot wholly in them."""


def spot_types(table: pd.DataFrame) -> tuple[str, ...]:
    """The types of a table of spots."""
    return tuple(str(c)[len(PROBABILITY) :] for c in table.columns if str(c).startswith(PROBABILITY))


@dataclass(frozen=True)
class _TableSpots(SpotSource):
    compositions: NDArray[np.float32]  # (S, K)
    spot: NDArray[np.int64]  # (M,) of each nucleus, or NO_SPOT
    place: NDArray[np.int64]  # (S,) the place of the grid that each spot is wholly in, or -1

    def whole(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        held = np.unique(self.spot[self.spot >= 0])
        return np.isin(places, self.place[held])

    def of_place(self, place: int, nuclei: NDArray[np.int64]) -> Spots | None:
        there, number = np.unique(self.spot[nuclei], return_inverse=True)
        inside = (there >= 0) & (self.place[there] == place)
        if not inside.any():
            return None
        new = np.where(inside, np.cumsum(inside) - 1, NO_SPOT)
        return Spots(new[number].astype(np.int64), self.compositions[there[inside]])


def table_spots(
    table: pd.DataFrame,
    names: Sequence[str],
    affine: NDArray[np.float64],
    mpp: NDArray[np.float64],
    points: NDArray[np.float64],
    grid: Grid,
) -> SpotSource:
    """Measured spots; the nuclei with their centre in a spot belong to it, to the nearest if spots overlap.

    Args:
        table: see ``write_set``.
        names: of the types of the set.
        affine: micrometres of the section to level-0 px.
        mpp: (2,) of level 0.
        points: (M, 2) centres of the nuclei, level-0 px.
        grid: of the patches.

    Raises:
        InputError: a column is missing, shares that do not sum to 1, a diameter that is not positive.
    """
    from scipy.spatial import cKDTree

    missing = [column for column in (X, Y, DIAMETER) if column not in table.columns]
    columns = [PROBABILITY + name for name in names]
    if missing or not all(column in table.columns for column in columns) or not columns or not len(table):
        raise InputError(
            f"spots: {len(table)} rows with columns {', '.join(map(str, table.columns))}; expected {X}, {Y}, {DIAMETER}"
            f" and a column '{PROBABILITY}NAME' for each type"
        )
    shares = table[columns].to_numpy(np.float32)
    diameter = table[DIAMETER].to_numpy(np.float64)
    if not is_composition(shares):
        raise InputError("spots: the shares of the types must be 0 to 1 and sum to 1 in each spot")
    if not (diameter > 0).all():
        raise InputError(f"spots: {DIAMETER} {np.nanmin(diameter)}; expected a positive number of micrometres")
    centres = apply(affine, table[[X, Y]].to_numpy(np.float64))
    # Micrometres of the image, in which a spot is a circle.
    distance, nearest = cKDTree(centres * mpp).query(points * mpp)
    spot = np.where(distance <= diameter[nearest] / 2, nearest, NO_SPOT).astype(np.int64)
    low, high = (grid.place_of(centres + sign * diameter[:, None] / 2 / mpp) for sign in (-1, 1))
    return _TableSpots(shares, spot, np.where(low == high, low, -1))


@dataclass(frozen=True)
class _CellSpots(SpotSource):
    labels: NucleusLabels
    points: NDArray[np.float64]
    size: NDArray[np.float64]  # (2,) of a square, level-0 px, about
    grid: Grid

    def whole(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.ones(len(places), dtype=bool)

    def of_place(self, place: int, nuclei: NDArray[np.int64]) -> Spots | None:
        per = np.maximum(np.floor(self.grid.side / self.size + 1e-9), 1)
        at = (self.points[nuclei] - self.grid.corners(np.array([place]))[0]) / self.grid.side
        square = np.clip(np.floor(at * per), 0, per - 1).astype(np.int64)
        shares = self.labels.shares[nuclei]
        typed = shares.sum(axis=1) > 0
        if not typed.any():
            return None
        number = square[:, 1] * int(per[0]) + square[:, 0]
        there, spot = np.unique(number[typed], return_inverse=True)
        sums = np.zeros((len(there), shares.shape[1]))
        np.add.at(sums, spot, shares[typed])
        of = np.full(len(nuclei), NO_SPOT, dtype=np.int64)
        of[typed] = spot
        return Spots(of, (sums / sums.sum(axis=1, keepdims=True)).astype(np.float32))


def cell_spots(labels: NucleusLabels, points: NDArray[np.float64], size: NDArray[np.float64], grid: Grid) -> SpotSource:
    """Squares of a patch as spots; the composition of each is the mean of its typed cells, which alone belong to it.

    Args:
        labels: of the nuclei.
        points: (M, 2) their centres, level-0 px.
        size: (2,) of a square at least, level-0 px; a patch has whole ones.
        grid: of the patches.
    """
    return _CellSpots(labels, points, size, grid)
