"""Each pairing rule against a search through every possibility, and the properties all of them promise."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from celldetr.errors import InputError
from celldetr.evaluation import pairing
from celldetr.evaluation.pairing import Pairing, pair_cells

RULES: tuple[Pairing, ...] = ("assign_then_drop", "within_radius", "greedy")
Pairs = set[tuple[int, int]]


def scene(seed: int, most: int = 5, side: float = 20.0) -> tuple[NDArray, NDArray, NDArray]:
    """Points at random reals: no two distances are alike, so every optimum is the only one."""
    rng = np.random.default_rng(seed)
    pred, true = (rng.uniform(0, side, (int(rng.integers(0, most + 1)), 2)) for _ in range(2))
    return pred, true, rng.random(len(pred))


def paired(pred: NDArray, true: NDArray, radius: float, rule: Pairing, scores: NDArray) -> Pairs:
    i, j = pair_cells(pred, true, radius, rule=rule, scores=scores)
    assert len(set(i)) == len(i) == len(j) == len(set(j))
    assert np.all(np.diff(i) > 0)
    return {(int(a), int(b)) for a, b in zip(i, j, strict=True)}


def every_assignment(n: int, m: int) -> list[list[tuple[int, int]]]:
    """All ways to give each member of the smaller side a partner of its own."""
    if n <= m:
        return [list(enumerate(partners)) for partners in permutations(range(m), n)]
    return [[(i, j) for j, i in enumerate(partners)] for partners in permutations(range(n), m)]


def by_search(pred: NDArray, true: NDArray, radius: float, rule: Pairing, scores: NDArray) -> Pairs:
    distance = np.linalg.norm(pred[:, None] - true[None], axis=-1)
    if rule == "greedy":
        free, out = set(range(len(true))), set()
        for i in sorted(range(len(pred)), key=lambda i: -scores[i]):
            j = min(free, key=lambda j: distance[i, j], default=None)
            if j is not None and distance[i, j] <= radius:
                free.remove(j)
                out.add((i, j))
        return out
    near = [
        [pair for pair in assignment if distance[pair] <= radius]
        for assignment in every_assignment(len(pred), len(true))
    ]
    total = [sum(distance[pair] for pair in assignment) for assignment in every_assignment(len(pred), len(true))]
    if rule == "assign_then_drop":
        return set(near[int(np.argmin(total))])
    return set(min(near, key=lambda pairs: (-len(pairs), sum(distance[pair] for pair in pairs))))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(1, 15), st.sampled_from(RULES))
def test_agrees_with_a_search_through_all_possibilities(seed: int, radius: float, rule: Pairing) -> None:
    pred, true, scores = scene(seed)
    assert paired(pred, true, radius, rule, scores) == by_search(pred, true, radius, rule, scores)


@pytest.mark.parametrize("seed", range(3))
def test_within_radius_is_optimal_in_a_crowd(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.uniform(0, 150, (300, 2))
    pred = np.concatenate([true[:250] + rng.normal(0, 3, (250, 2)), rng.uniform(0, 150, (80, 2))])
    i, j = pair_cells(pred, true, 6.0, rule="within_radius")
    distance = np.linalg.norm(pred[:, None] - true[None], axis=-1)
    most = int(np.sum(maximum_bipartite_matching(csr_matrix(distance <= 6)) >= 0))
    whole = np.where(distance <= 6, distance, 1e5)
    rows, columns = linear_sum_assignment(whole)
    shortest = whole[rows, columns][whole[rows, columns] <= 6].sum()
    assert len(i) == most
    assert distance[i, j].sum() == pytest.approx(shortest)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(RULES))
def test_order_of_the_input_has_no_say(seed: int, rule: Pairing) -> None:
    pred, true, scores = scene(seed, most=9)
    rng = np.random.default_rng(seed)
    p, t = rng.permutation(len(pred)), rng.permutation(len(true))
    shuffled = paired(pred[p], true[t], 6.0, rule, scores[p])
    assert {(int(p[i]), int(t[j])) for i, j in shuffled} == paired(pred, true, 6.0, rule, scores)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(("assign_then_drop", "within_radius")))
def test_swapping_the_sides_swaps_the_pairs(seed: int, rule: Pairing) -> None:
    pred, true, scores = scene(seed, most=9)
    mirrored = paired(true, pred, 6.0, rule, scores)
    assert {(j, i) for i, j in mirrored} == paired(pred, true, 6.0, rule, scores)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_no_rule_finds_more_pairs_than_within_radius(seed: int) -> None:
    pred, true, scores = scene(seed, most=20, side=40)
    most = len(paired(pred, true, 6.0, "within_radius", scores))
    assert all(len(paired(pred, true, 6.0, rule, scores)) <= most for rule in RULES)


def test_assigning_before_dropping_can_lose_a_pair() -> None:
    pred, true = np.array([[0.0, 0.0], [5.5, 1.0]]), np.array([[5.5, 0.0], [8.5, -4.1]])
    # 5.5 + 5.9 px for two pairs within 6 px, or 1.0 + 9.4 px in all, of which one is too long.
    assert list(pair_cells(pred, true, 6.0)[0]) == [1]
    assert list(pair_cells(pred, true, 6.0, rule="within_radius")[0]) == [0, 1]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("offset", [(0.0, -6.0), (3.6, 4.8)])
def test_a_pair_exactly_at_the_radius_counts(rule: Pairing, offset: tuple[float, float]) -> None:
    pred, true, scores = np.array([[0.0, 0.0]]), np.array([offset]), np.ones(1)
    assert len(paired(pred, true, 6.0, rule, scores)) == 1
    assert len(paired(pred, true, np.nextafter(6.0, 0) - 1e-12, rule, scores)) == 0


def test_greedy_prefers_the_score_to_the_distance() -> None:
    pred, true = np.array([[3.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 0.0]])
    assert list(pair_cells(pred, true, 6.0, rule="greedy", scores=np.array([0.9, 0.8]))[0]) == [0]
    assert list(pair_cells(pred, true, 6.0, rule="greedy", scores=np.array([0.8, 0.9]))[0]) == [1]


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_side_has_no_pairs(rule: Pairing) -> None:
    some, none = np.array([[1.0, 1.0]]), np.empty((0, 2))
    for pred, true in ((some, none), (none, some), (none, none)):
        assert paired(pred, true, 6.0, rule, np.ones(len(pred))) == set()


def test_a_slide_is_not_for_the_full_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "MAX_DISTANCES", 100)
    points = np.random.default_rng(0).uniform(0, 100, (11, 2))
    with pytest.raises(InputError, match=r"11 predicted and 11 true cells.*within_radius"):
        pair_cells(points, points, 6.0)
    assert len(pair_cells(points, points, 6.0, rule="within_radius")[0]) == 11


@pytest.mark.parametrize(
    ("pred", "radius", "rule", "message"),
    [
        (np.zeros((2, 3)), 6.0, "within_radius", r"pred_xy must be \(N, 2\)"),
        (np.array([[np.nan, 0.0]]), 6.0, "within_radius", "finite"),
        (np.zeros((1, 2)), -1.0, "within_radius", "-1"),
        (np.zeros((1, 2)), 6.0, "greedy", "score"),
        (np.zeros((1, 2)), 6.0, "nearest", "'nearest'"),
    ],
)
def test_bad_arguments_name_themselves(pred: NDArray, radius: float, rule: Pairing, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair_cells(pred, np.zeros((1, 2)), radius, rule=rule)
