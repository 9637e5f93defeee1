"""The contour found by dynamic programming against trying every contour."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from celldetr.data.pseudo_boxes import best_radii


def exhaustive(score: np.ndarray, largest_step: int, step_cost: float) -> float:
    """The best total of any closed contour."""
    rays, radii = score.shape
    best = -np.inf
    for contour in product(range(radii), repeat=rays):
        steps = np.abs(np.diff([*contour, contour[0]]))
        if steps.max() <= largest_step:
            best = max(best, score[np.arange(rays), contour].sum() - step_cost * steps.sum())
    return best


@pytest.mark.parametrize("largest_step", [1, 2])
@pytest.mark.parametrize("step_cost", [0.0, 0.3])
def test_as_good_as_trying_all(largest_step: int, step_cost: float) -> None:
    score = np.random.default_rng(3).normal(size=(20, 5, 4))
    found = best_radii(score, largest_step, step_cost)
    exact = 0
    for one, contour in zip(score, found, strict=True):
        assert np.abs(np.diff(contour)).max() <= largest_step
        steps = np.abs(np.diff([*contour, contour[0]]))
        total = one[np.arange(5), contour].sum() - step_cost * steps.sum()
        # Closing the contour is not forced but follows from the turns before and after, nearly always.
        exact += steps.max() <= largest_step and total == pytest.approx(exhaustive(one, largest_step, step_cost))
    assert exact >= 18


def test_a_drawn_contour_is_found_whatever_its_start() -> None:
    true = np.array([2, 3, 4, 5, 5, 4, 3, 2, 1, 1, 1, 1])
    for shift in range(len(true)):
        contour = np.roll(true, shift)
        score = np.zeros((1, len(true), 8))
        score[0, np.arange(len(true)), contour] = 1
        assert best_radii(score, 1, 0.01)[0].tolist() == contour.tolist()
