"""Intervals against the exact distribution where it is small enough to write down."""

from __future__ import annotations

import pytest

from celldetr.evaluation.bootstrap import bootstrap, units_of
from celldetr.evaluation.metrics import DetectionCounts, Totals, TypeCounts


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
