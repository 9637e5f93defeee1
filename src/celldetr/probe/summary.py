"""From the counts of rows to numbers with intervals, and to differences between rows.

Intervals of 95 % are for other seeds and other test units (patients where known, else images): ``seeds_and_images``.
All rows are resampled alike, so a difference is of pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from celldetr.evaluation.bootstrap import draw_units, seeds_and_images
from celldetr.probe.classify import macro_f1, type_f1
from celldetr.probe.row import FROZEN, MethodRow

RESAMPLES = 1000
Array = NDArray[np.float64]
Read = Callable[[NDArray], Array]
"""(..., counts) added over units -> (...) a number of them, NaN where it has none."""


@dataclass(frozen=True)
class Number:
    """A measured number.

    Attributes:
        value: mean over seeds or draws.
        low, high: 95 % interval; None with fewer than two units.
        each: of each seed or draw.
    """

    value: float
    low: float | None
    high: float | None
    each: tuple[float, ...]


ByShare = dict[float, Number]


@dataclass(frozen=True)
class RowNumbers:
    """What a report says of a row.

    Attributes:
        row: the counts that the numbers are from.
        macro_f1: classifier (as of ``Row.counts``) -> share of labels -> macro F1.
        accuracy: classifier on frozen vectors -> share of cells whose type is right, all labels.
        types: classifier on frozen vectors -> F1 of each type, all labels.
        first, ten: retrieval precision, mean over types, of the nearest and the ten nearest.
        chance: of them.
        leak, leak_chance: share of the ten nearest of a cell's type that is from its image.
        behind: the first row's macro F1 minus this one's, as ``macro_f1``; empty for the first row.
    """

    row: MethodRow
    macro_f1: dict[str, ByShare]
    accuracy: dict[str, Number]
    types: dict[str, tuple[Number, ...]]
    first: Number
    ten: Number
    chance: Number
    leak: Number
    leak_chance: Number
    behind: dict[str, ByShare]


def summarise(rows: list[MethodRow], seed: int = 0) -> list[RowNumbers]:
    """Numbers of all rows; differences are to the first."""
    return [_numbers(row, rows[0] if i else None, seed) for i, row in enumerate(rows)]


def _numbers(row: MethodRow, first: MethodRow | None, seed: int) -> RowNumbers:
    number = partial(interval, seeds=len(row.counts["linear"][1.0]), seed=seed)
    n_types = row.retrieval.shape[2]
    own, behind = dict[str, ByShare](), dict[str, ByShare]()
    for kind, by_share in row.counts.items():
        own[kind] = {share: number(counts, macro_f1) for share, counts in by_share.items()}
        theirs = first.counts.get(kind, {}) if first else {}
        if theirs:
            behind[kind] = {s: number(theirs[s], macro_f1, minus=by_share[s]) for s in by_share if s in theirs}
    return RowNumbers(
        row=row,
        macro_f1=own,
        accuracy={kind: number(row.counts[kind][1.0], accuracy) for kind in FROZEN},
        types={kind: tuple(number(row.counts[kind][1.0], _f1_of(k)) for k in range(n_types)) for kind in FROZEN},
        first=number(row.retrieval, lambda sums: _mean_of_types(sums, 1)),
        ten=number(row.retrieval, lambda sums: _mean_of_types(sums, 2)),
        chance=number(row.retrieval, lambda sums: _mean_of_types(sums, 3)),
        leak=number(row.leak, lambda sums: _ratio(sums[..., 1], sums[..., 0])),
        leak_chance=number(row.leak, lambda sums: _ratio(sums[..., 2], sums[..., 0])),
        behind=behind,
    )


def accuracy(counts: NDArray) -> Array:
    """(..., K, K) counts, rows true -> (...) the share of cells whose type is right."""
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def _f1_of(kind: int) -> Read:
    return lambda counts: type_f1(counts)[..., kind]


def _ratio(a: NDArray, b: NDArray) -> Array:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0)


def _mean_of_types(sums: NDArray, column: int) -> Array:
    """(..., K, 4) -> (...) the mean over types that have cells."""
    shares = _ratio(sums[..., column], sums[..., 0])
    return _ratio(np.nansum(shares, axis=-1), (~np.isnan(shares)).sum(-1))


def interval(
    counts: NDArray,
    read: Read,
    *,
    seeds: int,
    seed: int = 0,
    minus: NDArray | None = None,
    resamples: int = RESAMPLES,
) -> Number:
    """A number with its interval.

    Args:
        counts: (D, U, ...) of each draw and unit; draw d is of seed d modulo ``seeds``.
        read: from counts added over units to the number.
        seeds: how many; draws of one seed, of one network perhaps, are averaged.
        seed: of the bootstrap.
        minus: counts of another row with the same draws and units, whose number is taken off.
        resamples: how many sets of units.
    """
    each = read(counts.sum(1)) - (read(minus.sum(1)) if minus is not None else 0.0)
    value = float("nan") if np.isnan(each).all() else float(np.nanmean(each))
    nothing = Number(value, None, None, tuple(each.tolist()))
    draws, units = counts.shape[:2]
    if units < 2:
        return nothing
    chosen = draw_units(units, resamples, seed)
    resampled = _each(counts, chosen, read) - (_each(minus, chosen, read) if minus is not None else 0.0)  # (R, D)
    by_seed = (-1, max(draws // seeds, 1), min(seeds, draws))
    limits = seeds_and_images(each.reshape(by_seed).mean(1)[0], resampled.reshape(by_seed).mean(1))
    return Number(value, *limits, tuple(each.tolist())) if limits else nothing


def _each(counts: NDArray, chosen: NDArray[np.int64], read: Read) -> Array:
    """(R, D) the number of each resampled set of units."""
    return np.stack([read(np.tensordot(chosen, one, axes=1)) for one in counts], axis=1)
