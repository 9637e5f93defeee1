"""Intervals against the exact distribution where it is small enough to write down."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from celldetr.evaluation.bootstrap import bootstrap, flatten, restore, seeds_and_images, units_of
from celldetr.evaluation.metrics import DetectionCounts, Totals, TypeCounts
from celldetr.evaluation.panoptic import ImageMean, MaskTotals


def totals(tp: int, fp: int, fn: int) -> Totals:
    return Totals(DetectionCounts(tp, fp, fn), (TypeCounts(tp, fp, fn),), (DetectionCounts(fp, tp, fn),))


def metrics(counts: Totals) -> dict[str, float | None]:
    return {"f1": counts.detection.f1, "type": counts.types[0].f1, "alone": counts.classwise[0].f1}


IMAGES = [totals(10, 0, 0), totals(5, 5, 5), totals(1, 9, 9)]


def test_three_units_reach_their_extremes() -> None:
    # Drawing one unit three times has probability 1/27, more than 2.5 %: the interval ends at the best and the worst.
    intervals = bootstrap(IMAGES, [0, 1, 2], metrics, resamples=2000)
    assert intervals["f1"] == (pytest.approx(0.1), pytest.approx(1.0))
    assert intervals["type"] == (pytest.approx(2 / 38), pytest.approx(1.0))
    assert intervals["alone"] == (pytest.approx(0.0), pytest.approx(18 / 28))


def test_images_of_one_group_are_drawn_together() -> None:
    together = bootstrap(IMAGES, [0, 1, 1], metrics, resamples=500)
    assert together["f1"] == (pytest.approx(12 / 40), pytest.approx(1.0))


def test_equal_images_leave_no_doubt() -> None:
    assert bootstrap([IMAGES[1]] * 6, range(6), metrics)["f1"] == (0.5, 0.5)


def test_more_images_narrow_the_interval() -> None:
    def width(times: int) -> float:
        bounds = bootstrap(IMAGES * times, range(3 * times), metrics)["f1"]
        assert bounds is not None
        return bounds[1] - bounds[0]

    assert width(20) < 0.5 * width(2)


def test_seed_decides() -> None:
    images = IMAGES * 4
    runs = [bootstrap(images, range(12), metrics, resamples=50, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_no_interval_from_one_unit_or_of_the_undefined() -> None:
    assert bootstrap(IMAGES, [0, 0, 0], metrics) == {"f1": None, "type": None, "alone": None}
    assert bootstrap(IMAGES, [0, 1, 2], metrics, resamples=0)["f1"] is None
    assert bootstrap([totals(0, 0, 0)] * 3, [0, 1, 2], metrics)["f1"] is None
    assert bootstrap([], [], metrics) == {}


def test_units_are_groups_where_there_are_groups() -> None:
    assert units_of(["a", "", "b", "a", ""]) == [0, 1, 2, 0, 3]
    assert units_of([]) == []


def test_where_all_images_agree_the_interval_is_students() -> None:
    each = np.random.default_rng(0).normal(0.01, 0.02, 5)
    expected = ttest_1samp(each, 0).confidence_interval(0.95)
    assert seeds_and_images(each, np.tile(each, (100, 1))) == pytest.approx(tuple(expected))


def test_what_images_do_to_all_seeds_alike_comes_on_top() -> None:
    rng = np.random.default_rng(1)
    each, shift = np.full(4, 0.3), rng.normal(0, 0.1, (20000, 1))
    alone = seeds_and_images(each, each + rng.normal(0, 0.1, (20000, 4)))  # each seed has errors of its own
    assert alone == pytest.approx((0.3, 0.3), abs=0.02)
    shared = seeds_and_images(each, each + shift)
    assert shared == pytest.approx((0.3 - 0.196, 0.3 + 0.196), abs=0.005)
    assert seeds_and_images(each[:1], each[:1] + shift) == pytest.approx(shared, abs=0.005)  # other images alone
    assert seeds_and_images(np.array([0.1, np.nan]), np.zeros((9, 2))) is None


@pytest.mark.parametrize(("of_seeds", "of_images"), [(0.02, 0.001), (0.002, 0.02)])
@pytest.mark.parametrize("seeds", [2, 5])
def test_equal_recipes_are_found_to_differ_in_one_case_of_twenty(of_seeds: float, of_images: float, seeds: int) -> None:
    rng, found = np.random.default_rng(2), 0
    for _ in range(600):
        numbers = rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_images, (seeds, 14))
        weights = rng.multinomial(14, np.full(14, 1 / 14), size=200) / 14
        low, high = seeds_and_images(numbers.mean(1), weights @ numbers.T) or (0.0, 0.0)
        found += not low <= 0 <= high
    assert 0.02 <= found / 600 <= 0.08


def test_rows_become_the_counts_that_they_were() -> None:
    rng = np.random.default_rng(0)
    numbers = iter(rng.integers(0, 99, 100).tolist())
    totals = Totals(
        DetectionCounts(*islice(numbers, 3)),
        tuple(TypeCounts(*islice(numbers, 5)) for _ in range(2)),
        tuple(DetectionCounts(*islice(numbers, 3)) for _ in range(2)),
    )
    row = flatten(totals)
    assert len(row) == 3 + 8 * 2
    assert restore(row, Totals.none(2)) == totals
    assert restore([value * 2 for value in row], totals) == totals + totals
    masks = replace(MaskTotals.none(1), bpq=ImageMean(3, 0.25))
    assert restore(flatten(masks), MaskTotals.none(1)) == masks
    for wrong in (row[:-1], [*row, 1]):
        with pytest.raises(ValueError, match="expected 19"):
            restore(wrong, totals)
