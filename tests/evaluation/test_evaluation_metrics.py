"""Counts worked by hand, against scikit-learn, and as properties of any scene."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from torchvision import ops

from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.metrics import (
    DetectionCounts,
    Totals,
    TypeCounts,
    box_iou,
    confusion,
    count_classwise,
    count_image,
    count_types,
)
from celldetr.evaluation.protocols import PROTOCOLS, pair_image
from helpers.scenes import boxes_at, image, random_image

STANDARD = PROTOCOLS["standard"]
WITHIN = PROTOCOLS["within-radius"]


def worked_example() -> ImageCells:
    """Places 100 px apart; each holds (true type, predicted type), None for nobody."""
    places: list[tuple[int | None, int | None]] = [
        *[(0, 0)] * 3,
        (0, 1),
        (1, 0),
        *[(1, 1)] * 2,
        *[(None, 0)] * 2,
        (None, 1),
        (0, None),
        *[(1, None)] * 3,
        (-1, 0),  # of unknown type, found
        (-1, None),  # of unknown type, missed
    ]
    true = [(100.0 * k, 50.0, t) for k, (t, _) in enumerate(places) if t is not None]
    pred = [(100.0 * k + 3, 54.0, p) for k, (_, p) in enumerate(places) if p is not None]
    return image(
        [p[:2] for p in pred],
        [t[:2] for t in true],
        pred_types=[p[2] for p in pred],
        true_types=[t[2] for t in true],
    )


def test_worked_example() -> None:
    totals, pairs = count_image(worked_example(), STANDARD, 3)
    assert totals.detection == DetectionCounts(tp=8, fp=3, fn=5)
    assert totals.detection.precision == pytest.approx(8 / 11)
    assert totals.detection.recall == pytest.approx(8 / 13)
    assert totals.detection.f1 == pytest.approx(16 / 24)
    assert totals.types == (
        TypeCounts(tp=3, fp=1, fn=1, fp_detection=2, fn_detection=1),
        TypeCounts(tp=2, fp=1, fn=1, fp_detection=1, fn_detection=3),
        TypeCounts(),
    )
    assert [counts.f1 for counts in totals.types] == [pytest.approx(6 / 13), pytest.approx(4 / 12), None]
    assert totals.types[0].precision == pytest.approx(3 / 7)
    assert totals.types[0].recall == pytest.approx(3 / 6)
    assert totals.mean_f1 == pytest.approx((6 / 13 + 4 / 12) / 2)
    # Class by class: of seven predictions of type 0, three hit, one is excused by the cell of unknown type it lies on.
    assert totals.classwise == (DetectionCounts(3, 3, 2), DetectionCounts(2, 2, 4), DetectionCounts())
    assert [counts.f1 for counts in totals.classwise] == [pytest.approx(6 / 11), pytest.approx(4 / 10), None]
    np.testing.assert_array_equal(
        confusion(pairs, 3),
        [[3, 1, 0, 1], [1, 2, 0, 3], [0, 0, 0, 0], [1, 0, 0, 1], [2, 1, 0, 0]],
    )


def test_type_f1_is_the_harmonic_mean_of_its_precision_and_recall() -> None:
    counts = TypeCounts(tp=7, fp=3, fn=2, fp_detection=5, fn_detection=1)
    assert counts.precision is not None
    assert counts.recall is not None
    harmonic = 2 * counts.precision * counts.recall / (counts.precision + counts.recall)
    assert counts.f1 == pytest.approx(harmonic)


def test_nothing_to_count_is_neither_zero_nor_one() -> None:
    for counts in (DetectionCounts(), TypeCounts()):
        assert counts.precision is counts.recall is counts.f1 is None
    assert TypeCounts(fp_detection=1).f1 == 0  # predicted where there is none: that is defined, and bad
    assert TypeCounts(fp_detection=1).recall is None


def test_counts_are_added_not_averaged() -> None:
    large = image([(100.0 * k, 50) for k in range(9)], [(100.0 * k, 50) for k in range(9)])
    small = image([], [(50, 50)])
    totals = count_image(large, STANDARD, 1)[0] + count_image(small, STANDARD, 1)[0]
    assert totals.detection.f1 == pytest.approx(18 / 19)  # the mean over images would be 0.5
    assert totals.types[0].f1 == pytest.approx(18 / 19)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_every_cell_is_counted_once(seed: int) -> None:
    cells = random_image(seed)
    totals, pairs = count_image(cells, STANDARD, 3)
    detection = totals.detection
    assert detection.tp + detection.fp == len(cells.pred_xy)
    assert detection.tp + detection.fn == len(cells.true_xy)
    matrix = confusion(pairs, 3)
    known = cells.true_types[cells.true_types >= 0]
    np.testing.assert_array_equal(matrix.sum(axis=1)[:3], np.bincount(known, minlength=3))
    np.testing.assert_array_equal(matrix.sum(axis=0)[:3], np.bincount(cells.pred_types, minlength=3))
    for c, counts in enumerate(totals.types):
        assert counts.tp + counts.fn + counts.fn_detection == np.sum(cells.true_types == c)
        on_unknown = matrix[3, c]
        assert counts.tp + counts.fp + counts.fp_detection + on_unknown == np.sum(cells.pred_types == c)
        assert totals.classwise[c].tp + totals.classwise[c].fn == np.sum(cells.true_types == c)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_pairs_in_the_confusion_matrix_are_those_of_scikit_learn(seed: int) -> None:
    pairs = pair_image(random_image(seed, unknown=False), WITHIN)
    true, predicted = pairs.true_types[pairs.true_idx], pairs.pred_types[pairs.pred_idx]
    if len(true):
        np.testing.assert_array_equal(confusion(pairs, 3)[:3, :3], confusion_matrix(true, predicted, labels=range(3)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(("standard", "within-radius")))
def test_f1_is_the_same_with_the_sides_swapped(seed: int, protocol: str) -> None:
    cells = random_image(seed, unknown=False)
    swapped = image(cells.true_xy, cells.pred_xy, pred_types=cells.true_types, true_types=cells.pred_types)
    one, other = (count_image(c, PROTOCOLS[protocol], 3)[0] for c in (cells, swapped))
    assert one.detection.f1 == other.detection.f1
    assert one.detection.precision == other.detection.recall
    assert [c.f1 for c in one.types] == [c.f1 for c in other.types]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(PROTOCOLS)))
def test_order_of_cells_has_no_say(seed: int, protocol: str) -> None:
    cells = random_image(seed)
    rng = np.random.default_rng(seed)
    p, t = rng.permutation(len(cells.pred_xy)), rng.permutation(len(cells.true_xy))
    shuffled = image(
        cells.pred_xy[p],
        cells.true_xy[t],
        pred_types=cells.pred_types[p],
        true_types=cells.true_types[t],
        scores=cells.pred_scores[p],
    )
    assert count_image(shuffled, PROTOCOLS[protocol], 3)[0] == count_image(cells, PROTOCOLS[protocol], 3)[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(PROTOCOLS)))
def test_the_truth_itself_scores_one(seed: int, protocol: str) -> None:
    cells = random_image(seed, unknown=False)
    echo = image(cells.true_xy, cells.true_xy, pred_types=cells.true_types, true_types=cells.true_types)
    totals, _ = count_image(echo, PROTOCOLS[protocol], 3)
    assert {totals.detection.f1, *(c.f1 for c in totals.types), *(c.f1 for c in totals.classwise)} <= {1.0, None}
    assert totals.detection.f1 == 1.0 or not len(cells.true_xy)


def test_classwise_pairs_a_nucleus_found_twice_where_one_pairing_cannot() -> None:
    """Two predictions on one cell, the nearer of the wrong type."""
    cells = image([(50, 50), (53, 50)], [(50, 50)], pred_types=[1, 0], true_types=[0], scores=[0.8, 0.7])
    totals, _ = count_image(cells, STANDARD, 2)
    assert totals.types[0] == TypeCounts(fn=1, fp_detection=1)
    assert totals.types[1] == TypeCounts(fp=1)
    assert totals.classwise == (DetectionCounts(tp=1), DetectionCounts(fp=1))


def test_classwise_takes_the_best_score_first() -> None:
    """The better score takes the only cell in reach of the other, as in the point-based papers."""
    cells = image([(50, 50), (40, 50)], [(48, 50), (61, 50)], scores=[0.9, 0.5])
    assert count_classwise(cells, 12.0, 1) == (DetectionCounts(tp=1, fp=1, fn=1),)
    rising = image([(50, 50), (40, 50)], [(48, 50), (61, 50)], scores=[0.5, 0.9])
    assert count_classwise(rising, 12.0, 1) == (DetectionCounts(tp=2),)


def test_unknown_types_count_for_detection_only() -> None:
    cells = image([(50, 50), (150, 50)], [(50, 50), (250, 50)], pred_types=[0, 1], true_types=[-1, -1])
    totals, pairs = count_image(cells, STANDARD, 2)
    assert totals.detection == DetectionCounts(tp=1, fp=1, fn=1)
    assert count_types(pairs, 2) == (TypeCounts(), TypeCounts(fp_detection=1))
    assert totals.classwise == (DetectionCounts(), DetectionCounts(fp=1))


def test_a_cell_of_unknown_type_excuses_no_prediction_that_has_its_own() -> None:
    cells = image([(50, 50), (54, 50)], [(50, 50), (53, 50)], pred_types=[0, 0], true_types=[0, -1])
    assert count_classwise(cells, 12.0, 2) == (DetectionCounts(tp=1), DetectionCounts())
    alone = image([(52, 50)], [(50, 50), (53, 50)], true_types=[0, -1])
    assert count_classwise(alone, 12.0, 2) == (DetectionCounts(tp=1), DetectionCounts())


def test_totals_of_images_with_other_types_do_not_add() -> None:
    one = Totals(DetectionCounts(), (TypeCounts(),), (DetectionCounts(),))
    two = Totals(DetectionCounts(), (TypeCounts(),) * 2, (DetectionCounts(),) * 2)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        one + two


def test_box_iou_is_that_of_the_network() -> None:
    rng = np.random.default_rng(0)
    a, b = (boxes_at(rng.uniform(0, 9, (50, 2)), 8.0) for _ in range(2))
    np.testing.assert_allclose(box_iou(a, b), ops.box_iou(torch.from_numpy(a), torch.from_numpy(b)).diagonal().numpy())


def test_box_iou_of_no_box_is_undefined() -> None:
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [3, 3, 3, 3]], float)
    others = np.array([[0, 0, 4, 4], [np.nan, 0, 4, 4], [0, 0, 4, 4]], float)
    np.testing.assert_array_equal(box_iou(boxes, others), [1, np.nan, np.nan])


def test_the_mean_is_over_types_that_the_labels_have() -> None:
    """A model with more types than a set has is not given a zero for each cell of such a type."""
    right, elsewhere = TypeCounts(tp=3, fn=1), TypeCounts(fp_detection=2)
    totals = Totals(
        DetectionCounts(tp=4, fp=2), (right, elsewhere), (DetectionCounts(tp=3, fn=1), DetectionCounts(fp=2))
    )
    assert totals.mean_f1 == right.f1 == 6 / 8
    assert totals.mean_f1_classwise == 6 / 7
    assert Totals(DetectionCounts(fp=2), (elsewhere,), (DetectionCounts(fp=2),)).mean_f1 is None
