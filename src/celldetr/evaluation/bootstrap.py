"""Confidence intervals by resampling patients, not cells.

Cells of one image share stain, scanner and annotator, and images of one patient share the disease: what varies from one
test set to the next is whom it holds. Units are therefore groups where samples have one, images where not (Efron's
percentile bootstrap; the counts of the drawn units are added and the metric computed anew).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from celldetr.evaluation.metrics import Counts

Interval = tuple[float, float]
Some = TypeVar("Some", bound=Counts)


def units_of(groups: Sequence[str]) -> list[int]:
    """The unit of each image: images of one non-empty group share one, every other image is its own.

    Args:
        groups: group of each image, "" where it has none.
    """
    units: dict[str | int, int] = {}
    return [units.setdefault(group or index, len(units)) for index, group in enumerate(groups)]


def bootstrap(
    images: Sequence[Some],
    units: Sequence[int],
    metrics: Callable[[Some], dict[str, float | None]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """95 % intervals of the metrics of a split.

    Args:
        images: counts of each image.
        units: which images are drawn together, 0 ... U - 1.
        metrics: from added counts to named numbers.
        resamples: how many sets of U units are drawn with replacement; 0 for no intervals.
        seed: the same seed gives the same intervals.

    Returns:
        Under each name the 2.5th and 97.5th percentile, or None: fewer than two units, or never defined.
    """
    n_units = max(units, default=-1) + 1
    names = list(metrics(sum(images[1:], images[0]))) if images else []
    if n_units < 2 or resamples < 1:
        return dict.fromkeys(names)
    tables = [flatten(image) for image in images]
    per_unit = np.zeros((n_units, len(tables[0])))
    np.add.at(per_unit, np.asarray(units), tables)
    draws = draw_units(n_units, resamples, seed)
    drawn = [metrics(restore(row, images[0])) for row in (draws @ per_unit).tolist()]
    return {name: _percentiles([metric[name] for metric in drawn]) for name in names}


def draw_units(n_units: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """(resamples, n_units) how often each unit is in each set of ``n_units`` drawn with replacement."""
    return np.random.default_rng(seed).multinomial(n_units, np.full(n_units, 1 / n_units), size=resamples)


def seeds_and_images(each: NDArray[np.float64], resampled: NDArray[np.float64]) -> Interval | None:
    """95 % interval of the mean of a number over seeds of training, for other seeds and other images.

    Seeds are the unit: Student's t over the S numbers. What other images would change in all seeds alike comes on top,
    the covariance between seeds over resampled images; what they change in each on its own is in the spread of the S
    numbers already. A bootstrap over seeds finds differences between equal recipes far too often with two to five of
    them, and one over images alone says nothing of other seeds (``benchmarks/null_size.py``).

    Args:
        each: (S,) the number of each seed; of a single one the interval is of other images only.
        resampled: (R, S) the same on R resampled sets of images; rows with NaN are left out.

    Returns:
        the interval, or None where nothing is defined.
    """
    from scipy.stats import norm, t

    seeds, drawn = len(each), resampled[np.isfinite(resampled).all(1)]
    if len(drawn) < 2 or not np.isfinite(each).all():
        return None
    if seeds == 1:
        low, high = np.percentile(drawn, [2.5, 97.5])
        return float(low), float(high)
    spread = t.ppf(0.975, seeds - 1) * each.std(ddof=1) / np.sqrt(seeds)
    covariance = np.cov(drawn, rowvar=False)
    shared = (covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1))
    half = float(np.hypot(spread, norm.ppf(0.975) * np.sqrt(max(shared, 0.0))))
    return float(each.mean()) - half, float(each.mean()) + half


def _percentiles(values: Sequence[float | None]) -> Interval | None:
    defined = [value for value in values if value is not None]
    if not defined:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def flatten(counts: Counts) -> list[float]:
    """All numbers of counts as one row that can be weighted and added."""
    return list(_numbers(counts))


def _numbers(counts: Any) -> Iterable[float]:
    if isinstance(counts, int | float):
        yield counts
        return
    for part in counts if isinstance(counts, tuple) else vars(counts).values():
        yield from _numbers(part)


def restore(row: Iterable[float], like: Some) -> Some:
    """The inverse of ``flatten``.

    Args:
        row: the numbers.
        like: counts of the same kind and number of types.

    Raises:
        ValueError: more numbers than such counts have, or fewer.
    """
    values = iter(row)
    try:
        restored: Some = _restored(values, like)
    except StopIteration:
        raise ValueError(f"too few counts, expected {len(flatten(like))}") from None
    if more := len(list(values)):
        raise ValueError(f"{more} counts too many, expected {len(flatten(like))}")
    return restored


def _restored(values: Iterator[float], like: Any) -> Any:
    kind = type(like)
    if kind is int:
        return round(next(values))
    if kind is float:
        return next(values)
    if kind is tuple:
        return tuple([_restored(values, part) for part in like])  # a list: a generator would swallow its end
    return kind(*[_restored(values, part) for part in vars(like).values()])
