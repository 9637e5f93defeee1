"""Repeated queries of one nucleus, against a plain loop over all cells."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from celldetr.model.nms import distinct


def by_hand(centres: np.ndarray, scores: np.ndarray, distance: float) -> np.ndarray:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(np.hypot(*(centres[i] - centres[j])) >= distance for j in kept):
            kept.append(i)
    return np.isin(np.arange(len(scores)), kept)


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from([0.0, 0.5, 3.0, 5.0, 40.0]))
def test_equals_the_plain_loop(seed: int, count: int, distance: float) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 40, (count, 2)) * 0.5  # many at exactly the distance, some on top of each other
    scores = rng.integers(0, 5, count) / 4  # many ties
    np.testing.assert_array_equal(distinct(centres, scores, distance), by_hand(centres, scores, distance))


def test_a_dropped_cell_drops_nothing() -> None:
    centres = np.array([[0.0, 0.0], [4.0, 0.0], [8.0, 0.0]])
    assert distinct(centres, np.array([0.9, 0.8, 0.7]), 5.0).tolist() == [True, False, True]
    assert distinct(centres, np.array([0.8, 0.9, 0.7]), 5.0).tolist() == [False, True, False]
    assert distinct(centres, np.array([0.9, 0.8, 0.7]), 0.0).all()
