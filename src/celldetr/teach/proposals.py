"""Which cells to ask about next: those that the head is least sure of, and of these such as differ from one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from celldetr.teach.head import Features, LinearHead, Scaling

UNSURE = 10  # for each cell that is asked about, so many of the least sure are considered


def propose(
    features: Features, head: LinearHead | None, scaling: Scaling, labelled: Features, count: int
) -> NDArray[np.intp]:
    """Choose cells to ask about.

    Args:
        features: (N, f) of cells that are not labelled.
        head: what was learned so far; None: nothing yet.
        scaling: of the features.
        labelled: (n, f) of the labelled cells, from which the chosen are to differ, too.
        count: how many.

    Returns:
        (count,) positions in ``features``, fewer if it has fewer.
    """
    considered = np.arange(len(features))
    if head is not None and len(features) > UNSURE * count:
        best = np.partition(head.probabilities(features), -2, axis=1)[:, -2:]
        considered = np.argpartition(best[:, 1] - best[:, 0], UNSURE * count)[: UNSURE * count]
    return considered[farthest_first(scaling(features[considered]), scaling(labelled), count)]


def farthest_first(points: Features, known: Features, count: int) -> NDArray[np.intp]:
    """(count,) of (N, f) points: each the one farthest from ``known`` and from those before it (Gonzalez 1985)."""
    count = min(count, len(points))
    if not count:
        return np.zeros(0, np.intp)
    distance = np.full(len(points), np.inf)
    for point in known:
        distance = np.minimum(distance, ((points - point) ** 2).sum(1))
    if not len(known):
        distance = -((points - points.mean(0)) ** 2).sum(1)  # begin in the middle
    chosen = np.empty(count, np.intp)
    for i in range(count):
        chosen[i] = int(distance.argmax())
        if i == 0 and not len(known):
            distance[:] = np.inf
        distance = np.minimum(distance, ((points - points[chosen[i]]) ** 2).sum(1))
        distance[chosen[: i + 1]] = -np.inf
    return chosen
