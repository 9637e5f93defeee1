"""One nucleus, one query: what is left of a detector's repetitions.

One-to-one matching and self-attention among queries teach a DETR to report each nucleus once, and where it is unsure it
reports it twice all the same, with middling scores. Two cells are *rivals* if their centres are closer than a nucleus
is wide, or if one lies in the other's box: a part of a nucleus in the nucleus, or a nucleus in a box over several. The
best of them stays. This is about queries of one tile. Between tiles nothing is suppressed: there ownership decides
(``celldetr.slide.seams``).

A cell is dropped by better ones only, so those above any score are the same whether worse ones were looked at or not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

Pairs = NDArray[np.intp]  # (M, 2) positions


def distinct(scores: NDArray[np.floating], rivals: Pairs) -> NDArray[np.bool_]:
    """Which cells stay when each, by falling score, drops its worse rivals.

    A cell that was dropped drops nothing itself. Of equal scores the first is the better.

    Args:
        scores: (N,).
        rivals: (M, 2) pairs of cells, in any order.

    Returns:
        (N,) mask.
    """
    keep = np.ones(len(scores), dtype=np.bool_)
    if not len(rivals):
        return keep
    rank = np.empty(len(scores), dtype=np.intp)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    worse = np.where(rank[rivals[:, 0]] > rank[rivals[:, 1]], rivals[:, 0], rivals[:, 1])
    better = rivals.sum(1) - worse
    for i in np.lexsort((rank[worse], rank[better])):  # when a cell's turn comes, all better ones are decided
        if keep[better[i]]:
            keep[worse[i]] = False
    return keep


def close_pairs(centres: NDArray[np.floating], distance: float) -> Pairs:
    """(M, 2) pairs of (N, 2) ``centres`` that are nearer than ``distance``; none if that is 0."""
    if distance <= 0 or len(centres) < 2:
        return np.empty((0, 2), np.intp)
    pairs = KDTree(centres).query_pairs(distance, output_type="ndarray")
    apart = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1)
    return pairs[apart < distance]


def nested_pairs(boxes: NDArray[np.floating], share: float) -> Pairs:
    """(M, 2) pairs of (N, 4) xyxy ``boxes``, of which the second lies in the first with ``share`` of its area or more.

    The first is the larger, or the earlier of two equal ones. ``share`` is more than a half; at 0 there are no pairs.
    A box without area lies in none. Time grows with the number of centres in boxes, not with the square of N.
    """
    if share <= 0 or len(boxes) < 2:
        return np.empty((0, 2), np.intp)
    sides = boxes[:, 2:] - boxes[:, :2]
    areas, centres = sides.prod(1), (boxes[:, :2] + boxes[:, 2:]) / 2
    # A box that lies in another with more than half of its area has its centre there.
    inside = KDTree(centres).query_ball_point(centres, sides.max(1) / 2, p=np.inf)
    outer = np.repeat(np.arange(len(boxes)), [len(each) for each in inside])
    inner = np.concatenate([np.asarray(each, np.intp) for each in inside])
    larger = (areas[outer] > areas[inner]) | ((areas[outer] == areas[inner]) & (outer < inner))
    outer, inner = outer[larger], inner[larger]
    shared = np.minimum(boxes[outer, 2:], boxes[inner, 2:]) - np.maximum(boxes[outer, :2], boxes[inner, :2])
    covered = shared.clip(0).prod(1)
    nested = (covered >= share * areas[inner]) & (covered > 0)
    return np.stack([outer[nested], inner[nested]], axis=1)
