"""The precision-recall curve against scikit-learn's, and against counting at each threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from celldetr.evaluation.curve import score_curve
from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.metrics import DetectionCounts, count_detection
from celldetr.evaluation.protocols import PROTOCOLS, pair_image
from helpers.scenes import image, random_image


def row(hits: list[bool], scores: list[float], missed: int = 0) -> ImageCells:
    """Predictions 100 px apart, on a cell where ``hits``; ``missed`` cells elsewhere."""
    pred = [(100.0 * k, 50) for k in range(len(hits))]
    true = [xy for xy, hit in zip(pred, hits, strict=True) if hit] + [(100.0 * k, 500) for k in range(missed)]
    return image(pred, true, scores=scores)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_each_point_is_what_greedy_counting_gives_at_that_threshold(seed: int) -> None:
    images = [random_image(seed + k) for k in range(3)]
    curve = score_curve(images, 3.0)
    for threshold, precision, recall in zip(curve.thresholds, curve.precision, curve.recall, strict=False):
        counts = [count_detection(pair_image(i.above(threshold), PROTOCOLS["points-compat"])) for i in images]
        totals = sum(counts, DetectionCounts())
        assert (precision, recall) == (pytest.approx(totals.precision), pytest.approx(totals.recall))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9])), min_size=1, max_size=30))
def test_agrees_with_scikit_learn_where_nothing_is_missed(predictions: list[tuple[bool, float]]) -> None:
    hits, scores = [list(values) for values in zip(*predictions, strict=True)]
    if not any(hits):
        return
    curve = score_curve([row(hits, scores)], 3.0)
    precision, recall, thresholds = precision_recall_curve(hits, scores)
    np.testing.assert_allclose(curve.thresholds, thresholds[::-1])
    np.testing.assert_allclose(curve.precision, precision[-2::-1])
    np.testing.assert_allclose(curve.recall, recall[-2::-1])


def test_average_precision_by_hand() -> None:
    # hit, miss, hit, hit, and one cell of four never found. Precision is 1, 1/2, 2/3, 3/4; the best from there on is 1
    # up to recall 1/4 and 3/4 up to recall 3/4; nothing is granted beyond.
    curve = score_curve([row([True, False, True, True], [0.9, 0.8, 0.7, 0.6], missed=1)], 3.0)
    assert curve.average_precision == pytest.approx(1 / 4 * 1 + 2 / 4 * 3 / 4)
    assert curve.floor == pytest.approx(0.6)


def test_equal_scores_are_one_point() -> None:
    curve = score_curve([row([True, False, True, False], [0.5] * 4)], 3.0)
    assert curve.thresholds == (0.5,)
    assert curve.precision == (0.5,)
    assert curve.average_precision == pytest.approx(0.5)


def test_histogram_holds_every_prediction() -> None:
    curve = score_curve([row([True, True, False], [1.0, 0.52, 0.0])], 3.0)
    assert (curve.hits[-1], curve.hits[10], curve.misses[0]) == (1, 1, 1)
    assert sum(curve.hits) == 2
    assert sum(curve.misses) == 1


def test_long_curves_are_thinned_but_keep_their_ends() -> None:
    scores = np.linspace(0.1, 0.9, 1000)
    curve = score_curve([row([True] * 1000, scores.tolist())], 3.0)
    assert len(curve.thresholds) == 200
    assert (curve.thresholds[0], curve.thresholds[-1]) == (pytest.approx(0.9), pytest.approx(0.1))
    assert curve.average_precision == pytest.approx(1.0)


def test_without_cells_or_predictions() -> None:
    nothing = score_curve([image()], 3.0)
    assert (nothing.thresholds, nothing.average_precision, nothing.floor) == ((), None, None)
    assert score_curve([image([], [(5, 5)])], 3.0).average_precision == 0
    assert score_curve([image([(5, 5)], [])], 3.0).average_precision is None
