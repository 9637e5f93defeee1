"""Compositions of groups of nuclei: the shares of the types in a spot, as Visium measures them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

NO_SPOT = -1
# A spot of which more than this share is of types that a model does not have says too little about those it has.
MOST_UNKNOWN = 0.1
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Spots:
    """Groups of the nuclei of an image, and the composition of each; a spot that loses a nucleus is dropped.

    Attributes:
        of: (N,) int64, the spot of each nucleus, ``NO_SPOT`` where it is in none.
        compositions: (S, K) float32, share of each type in each spot; a row sums to 1.
    """

    of: NDArray[np.int64]
    compositions: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.of.ndim != 1 or self.compositions.ndim != 2:
            raise ValueError(f"spots of {self.of.shape} nuclei with compositions {self.compositions.shape}")
        if len(self.of) and not NO_SPOT <= self.of.min() <= self.of.max() < len(self.compositions):
            raise ValueError(f"spots {self.of.min()} to {self.of.max()}, of {len(self.compositions)} compositions")
        if not is_composition(self.compositions):
            raise ValueError("compositions must be shares of types, 0 to 1, that sum to 1 in each spot")

    def keep(self, which: NDArray[np.bool_]) -> Self:
        """Those of a part of the nuclei, a mask (N,): the spots that are wholly in it."""
        count = len(self.compositions)
        lost = np.zeros(count, dtype=bool)
        lost[self.of[~which & (self.of >= 0)]] = True
        return self._only(self.of[which], ~lost)

    def _only(self, of: NDArray[np.int64], kept: NDArray[np.bool_]) -> Self:
        """The spots of a mask (S,) that have nuclei, renumbered."""
        kept = kept & (np.bincount(of[of >= 0], minlength=len(kept)) > 0)
        number = np.where(kept, np.cumsum(kept) - 1, NO_SPOT)
        number = np.append(number, NO_SPOT).astype(np.int64)  # NO_SPOT is -1: the last entry
        return type(self)(number[of], self.compositions[kept])

    def map_types(self, table: NDArray[np.int64], count: int) -> Self:
        """With the types of a model; spots with more than ``MOST_UNKNOWN`` of unknown type are dropped.

        Args:
            table: (K,) the model's type of each of the types here, negative for unknown.
            count: of the model's types.
        """
        mapped = np.zeros((len(self.compositions), count), dtype=np.float64)
        for source, target in enumerate(table.tolist()):
            if target >= 0:
                mapped[:, target] += self.compositions[:, source]
        known = mapped.sum(axis=1)
        kept = known >= 1 - MOST_UNKNOWN
        mapped[kept] /= known[kept, None]
        mapped[~kept] = 1 / count  # left out below
        return type(self)(self.of, mapped.astype(np.float32))._only(self.of, kept)


def is_composition(values: NDArray[np.floating]) -> bool:
    """Whether rows (S, K) are shares that sum to 1; False for NaN."""
    return bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) <= SUM_TOLERANCE).all())
