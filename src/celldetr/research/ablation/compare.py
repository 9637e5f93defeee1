"""Means, spreads and paired comparisons of a study's variants.

Two things vary: the seed of training and the images of the test split. A difference of two variants is taken on
the same images and the same seeds. Seeds are the unit: intervals are for other seeds and other images
(``seeds_and_images``), p values are of exact sign flips over seeds, and there are none where so few seeds could not
give one below .05. ``benchmarks/null_size.py`` measures how often both find what is not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.evaluation.bootstrap import flatten, restore, seeds_and_images
from celldetr.evaluation.metrics import Totals
from celldetr.research.ablation.trial import Metric, Result


@dataclass(frozen=True)
class Difference:
    """One number of one variant.

    Attributes:
        mean, spread: over seeds (standard deviation, n - 1; None of a single one).
        values: of each seed.
        difference: of the mean to the baseline's, over the seeds that both have; None for the baseline itself.
        common: how many seeds these are.
        interval: 95 %, of the difference; of a single common seed it is about other images only.
        p: two-sided, of no difference, by ``sign_flips``; None where the seeds are fewer than ``seeds_for_p``.
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
) -> dict[str, Difference]:
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
    base = by_variant.get(baseline, {})
    contrasts = sum(variant != baseline and bool(trials.keys() & base) for variant, trials in by_variant.items())
    rows = {}
    for variant, trials in by_variant.items():
        values = tuple(value(trial.counts[protocol], metric) for trial in trials.values())
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows[variant] = Difference(float(np.mean(values)), spread, values)
        common = sorted(trials.keys() & base.keys())
        if variant != baseline and common:
            ours, theirs = ([side[s].counts[protocol] for s in common] for side in (trials, base))
            each = np.array([value(a, metric) - value(b, metric) for a, b in zip(ours, theirs, strict=True)])
            drawn = paired_differences(ours, theirs, metric, resamples=resamples, seed=seed)
            interval = seeds_and_images(each, drawn)
            known = interval is not None and len(common) >= seeds_for_p(contrasts)
            rows[variant] = replace(
                rows[variant],
                difference=float(each.mean()),
                common=len(common),
                interval=interval,
                p=sign_flips(each) if known else None,
            )
    return rows


def paired_differences(
    ours: Sequence[Sequence[Totals]],
    theirs: Sequence[Sequence[Totals]],
    metric: Metric,
    *,
    resamples: int,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Differences of two variants on resampled images.

    Args:
        ours, theirs: for each of S common seeds, the counts of each of N images.
        metric: see ``compare``.
        resamples, seed: how many, and of what chance.

    Returns:
        (resamples, S) our number minus theirs, of each seed.
    """
    tables = [np.array([[flatten(image) for image in images] for images in side]) for side in (ours, theirs)]
    chance = np.random.default_rng(seed)
    seeds, images = tables[0].shape[:2]
    differences = np.empty((resamples, seeds))
    for i in range(resamples):
        weight = np.bincount(chance.integers(images, size=images), minlength=images)
        sums = [np.einsum("n,snc->sc", weight, table) for table in tables]
        numbers = [[value([restore(row, ours[0][0])], metric) for row in side] for side in sums]
        differences[i] = np.array(numbers[0]) - np.array(numbers[1])
    return differences


def sign_flips(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """Exact two-sided p of paired differences, one a seed: under no difference each is as likely to have either sign.

    The share of all 2^n choices of signs that give a mean at least as far from zero.
    """
    each = np.abs(np.asarray(differences, dtype=np.float64))
    signs = 1 - 2 * (np.arange(2 ** len(each))[:, None] >> np.arange(len(each)) & 1)
    return float(np.mean(np.abs(signs @ each) >= abs(float(np.sum(differences))) * (1 - 1e-9)))


def seeds_for_p(contrasts: int) -> int:
    """The fewest seeds with which the least p of sign flips, 2^(1 - n), stands at .05 after Holm's correction."""
    return 1 + math.ceil(math.log2(max(contrasts, 1) / 0.05))


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for their number (Holm, 1979): the probability of any false finding in a table."""
    corrected, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(ps) - rank) * p))
        corrected[name] = largest
    return corrected
