"""Repeated queries of one nucleus, and cells in cells, against plain loops over all pairs."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st

from celldetr.model.nms import close_pairs, distinct, nested_pairs

SEEDS, COUNTS = st.integers(0, 2**32 - 1), st.integers(0, 60)


def by_hand(scores: np.ndarray, rivals: set[tuple[int, int]]) -> np.ndarray:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if not any((i, j) in rivals or (j, i) in rivals for j in kept):
            kept.append(i)
    return np.isin(np.arange(len(scores)), kept)


def some_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.integers(0, 30, (count, 2)).astype(float)
    return np.concatenate([corners, corners + rng.integers(0, 20, (count, 2))], axis=1)  # some without area


@given(SEEDS, COUNTS, st.sampled_from([0.0, 0.5, 3.0, 5.0, 40.0]))
def test_close_cells_equal_the_plain_loop(seed: int, count: int, distance: float) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 40, (count, 2)) * 0.5  # many at exactly the distance, some on top of each other
    scores = rng.integers(0, 5, count) / 4  # many ties
    rivals = {
        (i, j) for i in range(count) for j in range(i) if distance and np.hypot(*(centres[i] - centres[j])) < distance
    }
    kept = distinct(scores, close_pairs(centres, distance))
    np.testing.assert_array_equal(kept, by_hand(scores, rivals))


@given(SEEDS, COUNTS, st.sampled_from([0.0, 0.55, 0.8, 1.0]))
def test_nested_boxes_are_those_of_another_library(seed: int, count: int, share: float) -> None:
    boxes = some_boxes(np.random.default_rng(seed), count)
    shapes = shapely.box(*boxes.T)
    expected, doubtful = set(), set()
    for i in range(count):
        for j in range(count):
            first = shapes[i].area > shapes[j].area or (shapes[i].area == shapes[j].area and i < j)
            covered = shapes[i].intersection(shapes[j]).area
            if share and first and covered > 0:
                # Products that are equal by hand may differ in their last bit.
                if abs(covered - share * shapes[j].area) < 1e-9:
                    doubtful.add((i, j))
                elif covered > share * shapes[j].area:
                    expected.add((i, j))
    found = {tuple(pair) for pair in nested_pairs(boxes, share).tolist()}
    assert found - doubtful == expected


@given(SEEDS, COUNTS)
def test_no_cell_that_stays_lies_in_another(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores = some_boxes(rng, count), rng.random(count)
    kept = distinct(scores, nested_pairs(boxes, 0.8))
    assert not len(nested_pairs(boxes[kept], 0.8))
    np.testing.assert_array_equal(kept, by_hand(scores, {tuple(pair) for pair in nested_pairs(boxes, 0.8).tolist()}))
    # A threshold before and one afterwards are the same.
    high = scores >= 0.5
    np.testing.assert_array_equal(distinct(scores[high], nested_pairs(boxes[high], 0.8)), kept[high])


def test_a_dropped_cell_drops_nothing() -> None:
    centres = np.array([[0.0, 0.0], [4.0, 0.0], [8.0, 0.0]])
    rivals = close_pairs(centres, 5.0)
    assert distinct(np.array([0.9, 0.8, 0.7]), rivals).tolist() == [True, False, True]
    assert distinct(np.array([0.8, 0.9, 0.7]), rivals).tolist() == [False, True, False]
    assert distinct(np.array([0.9, 0.8, 0.7]), close_pairs(centres, 0.0)).all()


def test_a_box_over_several_nuclei_goes_when_one_is_surer() -> None:
    boxes = np.array([[0, 0, 30, 10], [1, 1, 9, 9], [11, 1, 19, 9], [21, 1, 40, 9]])  # half of the last is outside
    rivals = nested_pairs(boxes, 0.8)
    assert sorted(rivals.tolist()) == [[0, 1], [0, 2]]
    assert distinct(np.array([0.5, 0.6, 0.4, 0.3]), rivals).tolist() == [False, True, True, True]
    assert distinct(np.array([0.7, 0.6, 0.4, 0.3]), rivals).tolist() == [True, False, False, True]
