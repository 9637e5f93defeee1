"""Means, spreads and paired comparisons of a study's variants.

Two things vary: the seed of training and the images of the test split. A difference of two variants is taken on
the same images and the same seeds; the bootstrap draws images and seeds anew, both with replacement, so that its
interval is about other images and other seeds, not about these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.evaluation.bootstrap import flatten, restore
from celldetr.evaluation.metrics import Totals
from celldetr.research.ablation.trial import Metric, Result


@dataclass(frozen=True)
class Row:
    """One number of one variant.

    Attributes:
        mean, spread: over seeds (standard deviation, n - 1; None of a single one).
        values: of each seed.
        difference: of the mean to the baseline's, over the seeds that both have; None for the baseline itself.
        common: how many seeds these are.
        interval: 95 %, of the difference; of a single common seed it is about other images only.
        p: two-sided, of no difference: twice the share of resamples on the other side of zero. None with a single
            common seed, which says nothing of other seeds.
    """

    mean: float
    spread: float | None
    values: tuple[float, ...]
    difference: float | None = None
    common: int = 0
    interval: tuple[float, float] | None = None
    p: float | None = None


def value(images: Sequence[Totals], metric: Metric) -> float:
    """A metric of added counts; NaN where it is not defined."""
    number = metric(sum(images[1:], images[0]))
    return float("nan") if number is None else number


def compare(
    results: Sequence[Result],
    baseline: str,
    metric: Metric,
    protocol: str,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Row]:
    """Each variant's number, beside the baseline's.

    Args:
        results: of one study; every trial of the same images.
        baseline: variant to compare with; may be missing, then nothing is compared.
        metric: of ``metrics_of``.
        protocol: of the counts.
        resamples, seed: of the bootstrap.

    Raises:
        InputError: trials of different images.
    """
    if len({result.names for result in results}) > 1:
        raise InputError("trials of a study were scored on different images; delete the results of the old ones")
    by_variant: dict[str, dict[int, Result]] = {}
    for result in results:
        by_variant.setdefault(result.variant, {})[result.seed] = result
    rows = {}
    for variant, trials in by_variant.items():
        values = tuple(value(trial.counts[protocol], metric) for trial in trials.values())
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows[variant] = Row(float(np.mean(values)), spread, values)
        common = sorted(trials.keys() & by_variant.get(baseline, {}).keys())
        if variant != baseline and common:
            theirs = [by_variant[baseline][s].counts[protocol] for s in common]
            drawn = paired_differences(
                [trials[s].counts[protocol] for s in common], theirs, metric, resamples=resamples, seed=seed
            )
            drawn = drawn[np.isfinite(drawn)]  # a number may not be defined on the images drawn
            whole = np.mean([value(trials[s].counts[protocol], metric) for s in common])
            difference = float(whole - np.mean([value(images, metric) for images in theirs]))
            row = Row(rows[variant].mean, spread, values, difference, len(common))
            if len(drawn) and np.isfinite(difference):
                low, high = np.percentile(drawn, [2.5, 97.5])
                p = min(1.0, 2 * min(float(np.mean(drawn <= 0)), float(np.mean(drawn >= 0))))
                known = max(p, 1 / resamples) if len(common) > 1 else None
                row = replace(row, interval=(float(low), float(high)), p=known)
            rows[variant] = row
    return rows


def paired_differences(
    ours: Sequence[Sequence[Totals]],
    theirs: Sequence[Sequence[Totals]],
    metric: Metric,
    *,
    resamples: int,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Differences of two variants on resampled images and seeds.

    Args:
        ours, theirs: for each of S common seeds, the counts of each of N images.
        metric: see ``compare``.
        resamples, seed: how many, and of what chance.

    Returns:
        (resamples,) mean over the drawn seeds of our number minus theirs.
    """
    types = len(ours[0][0].types)
    tables = [np.array([[flatten(image) for image in images] for images in side]) for side in (ours, theirs)]
    chance = np.random.default_rng(seed)
    seeds, images = tables[0].shape[:2]
    differences = np.empty(resamples)
    for i in range(resamples):
        weight = np.bincount(chance.integers(images, size=images), minlength=images)
        picked: list[int] = chance.integers(seeds, size=seeds).tolist()  # type: ignore[assignment]
        sums = [np.einsum("n,snc->sc", weight, table) for table in tables]
        numbers = [[value([restore(row, types)], metric) for row in side] for side in sums]
        differences[i] = np.mean([numbers[0][s] - numbers[1][s] for s in picked])
    return differences


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for their number (Holm, 1979): the probability of any false finding in a table."""
    corrected, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(ps) - rank) * p))
        corrected[name] = largest
    return corrected
