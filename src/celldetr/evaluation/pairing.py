"""One-to-one pairs of predicted and true cells: the first step of every metric, and the one papers differ in.

- ``assign_then_drop`` (HoVer-Net, CellViT, CellDETR): the Hungarian assignment on *all* distances, then pairs beyond
  the radius are dropped. On crowded tiles this loses up to ten points of F1 (docs/concepts/evaluation.md shows why).
- ``within_radius``: pairs beyond the radius are forbidden before the assignment, which finds the largest number of
  pairs and, among those, the smallest total distance. Time grows with the number of cells, not with its cube.
- ``greedy`` (DeNuC, much like MCSpatNet): by falling score each prediction takes the nearest true cell that is free.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from celldetr.assignment import Index, assign, assign_greedily, candidate_pairs
from celldetr.errors import InputError

Pairing = Literal["assign_then_drop", "within_radius", "greedy"]
Floats = NDArray[np.floating]

MAX_DISTANCES = 250_000_000  # 2 GB of float64: the largest full distance matrix ``assign_then_drop`` will make


def pair_cells(
    pred_xy: Floats,
    true_xy: Floats,
    radius: float,
    *,
    rule: Pairing = "assign_then_drop",
    scores: Floats | None = None,
) -> tuple[Index, Index]:
    """Pair predicted with true cells, each at most once, by the distance of their centres.

    Args:
        pred_xy: (M, 2) predicted centres.
        true_xy: (N, 2) true centres, in the unit of ``pred_xy``.
        radius: largest distance of a pair, same unit; a pair exactly at it counts.
        rule: what to do about cells farther apart than that; see the module.
        scores: (M,) scores of the predictions, needed by ``greedy`` alone.

    Returns:
        ``pred_idx, true_idx``: (P,) positions of the pairs, P <= min(M, N), ``pred_idx`` rising.

    Raises:
        ValueError: arrays of another shape, coordinates that are not finite, a negative radius, no scores for
            ``greedy``.
        InputError: too many cells for ``assign_then_drop``.

    >>> pred, true = pair_cells(np.array([[0.0, 0.0], [9.0, 9.0]]), np.array([[9.0, 8.0], [1.0, 0.0]]), 6)
    >>> pred.tolist(), true.tolist()
    ([0, 1], [1, 0])
    """
    pred, true = _points(pred_xy, "pred_xy"), _points(true_xy, "true_xy")
    if not radius >= 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    if rule == "greedy" and (scores is None or len(scores) != len(pred)):
        raise ValueError(f"greedy pairing needs one score for each of the {len(pred)} predictions")
    if not len(pred) or not len(true):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    if rule == "assign_then_drop":
        return _assign_then_drop(pred, true, radius)
    i, j, distance = candidate_pairs(pred, true, radius)
    if rule == "within_radius":
        chosen = assign(i, j, distance)
    elif rule == "greedy" and scores is not None:
        chosen = assign_greedily(i, j, distance, rank_by_score(scores, pred))
    else:
        raise ValueError(f"unknown pairing rule {rule!r}")
    chosen = chosen[np.argsort(i[chosen])]
    return i[chosen], j[chosen]


def _points(xy: Floats, name: str) -> NDArray[np.float64]:
    points = np.asarray(xy, np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{name} must be (N, 2) centres, got shape {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} holds coordinates that are not finite")
    return points


def _assign_then_drop(pred: NDArray[np.float64], true: NDArray[np.float64], radius: float) -> tuple[Index, Index]:
    if len(pred) * len(true) > MAX_DISTANCES:
        raise InputError(
            f"{len(pred)} predicted and {len(true)} true cells in one image are too many for pairing "
            "'assign_then_drop'; cut the image into tiles or use 'within_radius'"
        )
    distance = cdist(pred, true)
    i, j = linear_sum_assignment(distance)
    near = distance[i, j] <= radius
    return i[near], j[near]


def rank_by_score(scores: Floats, positions: Floats) -> Index:
    """(M,) rank of each prediction by falling score; of equals by its (M, D) position, whatever the input order."""
    rank = np.empty(len(scores), np.intp)
    rank[np.lexsort((*positions.T[::-1], -np.asarray(scores, np.float64)))] = np.arange(len(scores))
    return rank
