"""Which cells to ask about next.

First such as stand for many: the cells nearest to the centres of k-means. After ``FIRST`` labels those that the head is
least sure of (least margin between its two best types), and of these such as differ from all labelled ones and from one
another (farthest first). benchmarks/teach_curve.py --choose compares it with other rules.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from celldetr.teach.head import Features, LinearHead, Scaling

FIRST = 10  # labels
CLUSTERED = 2000  # cells of which the first are chosen
UNSURE = 10  # for each cell that is asked about, so many of the least sure are considered


def propose(
    features: Features, head: LinearHead | None, scaling: Scaling, labelled: Features, count: int, seed: int = 0
) -> NDArray[np.intp]:
    """Choose cells to ask about.

    Args:
        features: (N, f) of cells that are neither labelled nor struck out.
        head: what was learned so far; None: nothing yet.
        scaling: of the features.
        labelled: (n, f) of the cells that are.
        count: how many.
        seed: of the first ones.

    Returns:
        (count,) positions in ``features``, fewer if it has fewer.
    """
    if len(features) <= count:
        return np.arange(len(features))
    if head is None or head.known < 2 or len(labelled) < FIRST:
        some = np.random.default_rng(seed).permutation(len(features))[: max(CLUSTERED, count)]
        return some[_central(scaling(features[some]), count, seed)]
    found = head.probabilities(features)
    best = np.partition(found, -2, axis=1)[:, -2:]
    considered = np.argsort(best[:, 1] - best[:, 0], kind="stable")[: UNSURE * count]
    return considered[_farthest_first(scaling(features[considered]), scaling(labelled), count)]


def _central(points: Features, count: int, seed: int) -> NDArray[np.intp]:
    """(count,) of (N, f) points: for each centre of k-means the nearest that is not chosen yet."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than centres
        distance = KMeans(count, n_init=1, max_iter=20, random_state=seed).fit(points).transform(points)
    chosen = np.empty(count, np.intp)
    for i in range(count):
        chosen[i] = distance[:, i].argmin()
        distance[chosen[i]] = np.inf
    return chosen


def _farthest_first(points: Features, known: Features, count: int) -> NDArray[np.intp]:
    """(count,) of (N, f) points: each the one farthest from ``known`` and from those before it (Gonzalez 1985)."""
    distance = np.full(len(points), np.inf)
    for point in known:
        distance = np.minimum(distance, ((points - point) ** 2).sum(1))
    chosen = np.empty(count, np.intp)
    for i in range(count):
        chosen[i] = distance.argmax()
        distance = np.minimum(distance, ((points - points[chosen[i]]) ** 2).sum(1))
        distance[chosen[: i + 1]] = -np.inf
    return chosen
