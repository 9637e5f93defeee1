"""One nucleus, one query: what is left of a detector's repetitions.

One-to-one matching and self-attention among queries teach a DETR to report each nucleus once, and where it is unsure it
reports it twice all the same, with middling scores. Cells whose centres are closer than a nucleus is wide are one
nucleus, and the best of them stays. This is about queries of one tile. Between tiles nothing is suppressed: there
ownership decides (``celldetr.slide.seams``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree


def distinct(centres: NDArray[np.floating], scores: NDArray[np.floating], distance: float) -> NDArray[np.bool_]:
    """Which cells stay when each, by falling score, drops the worse ones nearer than ``distance``.

    A cell that was dropped drops nothing itself. Of equal scores the first is the better.

    Args:
        centres: (N, 2).
        scores: (N,).
        distance: in the unit of ``centres``; 0 keeps everything.

    Returns:
        (N,) mask.
    """
    keep = np.ones(len(centres), dtype=np.bool_)
    if distance <= 0 or len(centres) < 2:
        return keep
    rank = np.empty(len(scores), dtype=np.intp)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    pairs = KDTree(centres).query_pairs(distance, output_type="ndarray")
    apart = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1)
    pairs = pairs[apart < distance]
    worse = np.where(rank[pairs[:, 0]] > rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    better = pairs.sum(1) - worse
    for i in np.lexsort((rank[worse], rank[better])):  # when a cell's turn comes, all better ones are decided
        if keep[better[i]]:
            keep[worse[i]] = False
    return keep
