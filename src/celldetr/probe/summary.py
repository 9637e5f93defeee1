"""From the counts of rows to numbers with intervals, and to differences between rows.

Intervals are 95 % percentiles of a bootstrap over test units (patients where known, else images) and over seeds, with
the networks and draws of labels that are theirs. All rows are resampled alike, so a difference is of pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from celldetr.evaluation.bootstrap import draw_units
from celldetr.probe.classify import macro_f1, type_f1
from celldetr.probe.row import Row

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


@dataclass(frozen=True)
class RowNumbers:
    """What a report says of a row.

    Attributes:
        row: where it is from.
        knn, linear: share of labels -> macro F1.
        knn_types, linear_types: F1 of each type, all labels.
        first, ten: retrieval precision, mean over types, of the nearest and the ten nearest.
        chance: of them.
        leak, leak_chance: share of the ten nearest of a cell's type that is from its image.
        behind: the first row's linear macro F1 minus this one's, by share; empty for the first row.
        behind_knn: the same of kNN.
        finetuned: share of types -> macro F1 after fine-tuning; empty where there is none.
        behind_finetuned: the first row's minus this one's.
    """

    row: Row
    knn: dict[float, Number]
    linear: dict[float, Number]
    knn_types: tuple[Number, ...]
    linear_types: tuple[Number, ...]
    first: Number
    ten: Number
    chance: Number
    leak: Number
    leak_chance: Number
    behind: dict[float, Number]
    behind_knn: dict[float, Number]
    finetuned: dict[float, Number]
    behind_finetuned: dict[float, Number]


def summarise(rows: list[Row], seed: int = 0) -> list[RowNumbers]:
    """Numbers of all rows; differences are to the first."""
    return [_numbers(row, rows[0] if i else None, seed) for i, row in enumerate(rows)]


def _numbers(row: Row, first: Row | None, seed: int) -> RowNumbers:
    n_types = row.retrieval.shape[2]
    types = [_one_type(kind) for kind in range(n_types)]
    knn, linear = row.knn, row.linear
    number = partial(interval, seeds=len(linear[1.0]), seed=seed)

    def behind(mine: dict[float, NDArray], theirs: dict[float, NDArray] | None) -> dict[float, Number]:
        if theirs is None:
            return {}
        return {share: number(theirs[share], macro_f1, minus=mine[share]) for share in mine if share in theirs}

    return RowNumbers(
        row=row,
        knn={share: number(counts, macro_f1) for share, counts in knn.items()},
        linear={share: number(counts, macro_f1) for share, counts in linear.items()},
        knn_types=tuple(number(knn[1.0], read) for read in types),
        linear_types=tuple(number(linear[1.0], read) for read in types),
        first=number(row.retrieval, lambda sums: _mean_of_types(sums, 1)),
        ten=number(row.retrieval, lambda sums: _mean_of_types(sums, 2)),
        chance=number(row.retrieval, lambda sums: _mean_of_types(sums, 3)),
        leak=number(row.leak, lambda sums: _ratio(sums[..., 1], sums[..., 0])),
        leak_chance=number(row.leak, lambda sums: _ratio(sums[..., 2], sums[..., 0])),
        behind=behind(linear, first.linear if first else None),
        behind_knn=behind(knn, first.knn if first else None),
        finetuned={share: number(counts, macro_f1) for share, counts in row.finetuned.items()},
        behind_finetuned=behind(row.finetuned, first.finetuned if first else None),
    )


def _one_type(kind: int) -> Read:
    return lambda counts: type_f1(counts)[..., kind]


def _ratio(a: NDArray, b: NDArray) -> Array:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0)


def _mean_of_types(sums: NDArray, column: int) -> Array:
    """(..., K, 4) -> (...) the mean over types that have cells."""
    there = sums[..., 0] > 0
    each = np.where(there, _ratio(sums[..., column], sums[..., 0]), 0.0)
    return _ratio(each.sum(-1), there.sum(-1).astype(np.float64))


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
        seeds: how many; what was drawn with one seed, of one network perhaps, is resampled together.
        seed: of the bootstrap.
        minus: counts of another row with the same draws and units, whose number is taken off.
        resamples: how many sets of units and seeds.
    """
    each = read(counts.sum(1)) - (read(minus.sum(1)) if minus is not None else 0.0)
    draws, units = counts.shape[:2]
    value = _mean(each)
    if units < 2:
        return Number(value, None, None, tuple(each.tolist()))
    chosen = draw_units(units, resamples, seed)
    resampled = _each(counts, chosen, read) - (_each(minus, chosen, read) if minus is not None else 0.0)  # (R, D)
    weight = np.tile(draw_units(min(seeds, draws), resamples, seed + 1), max(draws // seeds, 1))
    defined = ~np.isnan(resampled)
    total = (np.where(defined, resampled, 0) * weight).sum(1)
    means = _ratio(total, (weight * defined).sum(1).astype(np.float64))
    if np.isnan(means).all():
        return Number(value, None, None, tuple(each.tolist()))
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return Number(value, float(low), float(high), tuple(each.tolist()))


def _each(counts: NDArray, chosen: NDArray[np.int64], read: Read) -> Array:
    """(R, D) the number of each resampled set of units."""
    return np.stack([read(np.tensordot(chosen, one, axes=1)) for one in counts], axis=1)


def _mean(values: Array) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))
