"""Calibration against a loop over the bins, and on predictions whose probabilities are known to be true or false."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celldetr.evaluation.calibration import BINS, calibration, reliability
from celldetr.evaluation.pairing import pair_cells
from helpers.scenes import image, random_image

SCORE = st.one_of(st.floats(0, 1), st.integers(0, BINS).map(lambda k: k / BINS))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(SCORE, st.booleans()), max_size=60))
def test_agrees_with_a_loop(predictions: list[tuple[float, bool]]) -> None:
    measured = reliability(np.array([s for s, _ in predictions]), np.array([r for _, r in predictions], bool))
    error = 0.0
    for k in range(BINS):
        low, high = k / BINS, (k + 1) / BINS
        members = [(s, r) for s, r in predictions if low <= s and (s < high or k == BINS - 1)]
        assert measured.counts[k] == len(members)
        if not members:
            assert measured.stated[k] is measured.share_right[k] is None
            continue
        stated = sum(s for s, _ in members) / len(members)
        right = sum(r for _, r in members) / len(members)
        assert (measured.stated[k], measured.share_right[k]) == (pytest.approx(stated), pytest.approx(right))
        error += len(members) / len(predictions) * abs(stated - right)
    assert measured.error == (pytest.approx(error, abs=1e-12) if predictions else None)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_true_probabilities_have_next_to_no_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random(20_000)
    # By chance alone each bin is off by about sqrt(.25 / 1333) = .014 at most, on average .01.
    assert reliability(scores, rng.random(20_000) < scores).error < 0.025
    # An overconfident model: what it states is right half of the time less often above .5.
    assert reliability(scores, rng.random(20_000) < scores / 2).error == pytest.approx(0.25, abs=0.02)


def test_a_score_of_one_is_in_the_last_bin() -> None:
    measured = reliability(np.array([1.0, 0.0]), np.array([True, False]))
    assert (measured.counts[0], measured.counts[-1], sum(measured.counts)) == (1, 1, 2)
    assert measured.error == 0


def test_who_counts_for_scores_and_who_for_types() -> None:
    # On a cell of the same type, of another, of unknown type, and on none; a cell is missed.
    cells = image(
        [(10, 10), (100, 10), (200, 10), (300, 10)],
        [(10, 10), (100, 10), (200, 10), (400, 10)],
        pred_types=[0, 1, 1, 0],
        true_types=[0, 0, -1, 0],
        scores=[0.9, 0.9, 0.9, 0.3],
        type_scores=[0.8, 0.8, 0.4, 0.4],
    )
    measured = calibration([cells, image()], 3.0)
    assert sum(measured.objectness.counts) == 4
    assert measured.objectness.share_right[13] == 1
    assert measured.objectness.error == pytest.approx((3 * 0.1 + 1 * 0.3) / 4)
    assert sum(measured.types.counts) == 2
    assert measured.types.stated[12] == pytest.approx(0.8)
    assert measured.types.error == pytest.approx(0.3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_all_predictions_are_used_whatever_the_threshold(seed: int) -> None:
    images = [random_image(seed + k) for k in range(3)]
    measured = calibration(images, 3.0)
    assert sum(measured.objectness.counts) == sum(len(i.pred_xy) for i in images)
    pairs = [pair_cells(i.pred_xy, i.true_xy, 12, rule="greedy", scores=i.pred_scores) for i in images]
    known = sum(int(np.sum(i.true_types[j] != -1)) for i, (_, j) in zip(images, pairs, strict=True))
    assert sum(measured.types.counts) == known


def test_nothing_predicted() -> None:
    measured = calibration([image([], [(5, 5)])], 3.0)
    assert measured.objectness.error is measured.types.error is None
    assert sum(measured.objectness.counts) == 0
