"""Sparse one-to-one assignment against dense assignment with every pair written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from celldetr import assignment
from celldetr.assignment import assign, assign_greedily, candidate_pairs

FORBIDDEN = 1e9


def dense(cost: np.ndarray, unmatched: float) -> float:
    """Least total cost where a row without a column costs ``unmatched``: an assignment with a dummy for each row."""
    n, m = cost.shape
    full = np.full((n, m + n), FORBIDDEN)
    full[:, :m] = np.where(cost <= unmatched, cost, FORBIDDEN)
    full[np.arange(n), m + np.arange(n)] = unmatched
    rows, columns = linear_sum_assignment(full)
    return float(full[rows, columns].sum())


def clouds(seed: int, most: int = 60, side: float = 40.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two clouds of points, so dense that components are large, and their distances."""
    random = np.random.default_rng(seed)
    a, b = (random.uniform(0, side, (int(n), 2)) for n in random.integers(1, most, 2))
    return a, b, cdist(a, b)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2.0, 10.0]), st.sampled_from([5, 60]))
def test_total_cost_is_that_of_the_dense_assignment(seed: int, unmatched: float, most: int) -> None:
    _, _, full = clouds(seed, most)
    i, j = np.nonzero(full <= 12)
    chosen = assign(i, j, full[i, j], unmatched)
    assert len(set(i[chosen])) == len(set(j[chosen])) == len(chosen)
    assert (np.diff(chosen) > 0).all()
    total = full[i[chosen], j[chosen]].sum() + unmatched * (len(full) - len(chosen))
    assert total == pytest.approx(dense(full, unmatched))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2.0, 10.0]), st.sampled_from([5, 60]))
def test_without_a_price_the_matching_is_the_largest_and_then_the_cheapest(seed: int, reach: float, most: int) -> None:
    _, _, full = clouds(seed, most)
    i, j = np.nonzero(full <= reach)
    chosen = assign(i, j, full[i, j])
    whole = np.where(full <= reach, full, 1e5)
    rows, columns = linear_sum_assignment(whole)
    allowed = whole[rows, columns] <= reach
    assert len(chosen) == len(set(i[chosen])) == len(set(j[chosen])) == allowed.sum()
    assert full[i[chosen], j[chosen]].sum() == pytest.approx(whole[rows, columns][allowed].sum())


def test_batches_and_the_order_of_candidates_do_not_change_the_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    a, b = random.uniform(0, 300, (900, 2)), random.uniform(0, 300, (900, 2))
    i, j, cost = candidate_pairs(a, b, 6.0)
    whole = assign(i, j, cost, 6.0)
    order = random.permutation(len(i))
    np.testing.assert_array_equal(np.sort(order[assign(i[order], j[order], cost[order], 6.0)]), whole)
    monkeypatch.setattr(assignment, "BATCH", 7)
    np.testing.assert_array_equal(assign(i, j, cost, 6.0), whole)
    assert cost[whole].sum() + 6 * (900 - len(whole)) == pytest.approx(dense(cdist(a, b), 6.0))


def test_candidates_are_all_the_near_pairs_and_the_radius_itself_counts() -> None:
    a, b, full = clouds(1)
    i, j, distance = candidate_pairs(a, b, 7.0)
    assert {*zip(i.tolist(), j.tolist(), strict=True)} == {
        *zip(*(k.tolist() for k in np.nonzero(full <= 7)), strict=True)
    }
    np.testing.assert_allclose(distance, full[i, j])
    assert len(candidate_pairs(np.zeros((1, 2)), np.array([[3.6, 4.8]]), 6.0)[0]) == 1


def test_nothing_to_assign() -> None:
    none = np.zeros(0, np.intp)
    assert len(assign(none, none, np.zeros(0))) == 0
    assert len(assign(np.array([0]), np.array([0]), np.array([3.0]), unmatched=2.0)) == 0


def test_greedy_gives_each_in_turn_the_cheapest_that_is_free() -> None:
    left, right, cost = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([1.0, 2.0, 0.5, 9.0])
    assert assign_greedily(left, right, cost, np.array([0, 1])).tolist() == [0, 3]
    assert assign_greedily(left, right, cost, np.array([1, 0])).tolist() == [2, 1]
