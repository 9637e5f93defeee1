"""Which cells to ask about next.

First such as stand for many: the cells nearest to the centres of k-means. After ``FIRST`` answers those that the head
is least sure of (least margin between its two best types), and of these such as differ from all answered ones and from
one another (farthest first). Detections that are no cell are what a head is least sure of, and a click on one teaches
no type: the head that asks has one more output, learned from those that were struck out, and passes over what is like
them. Compared with other rules by benchmarks/teach_curve.py --choose.
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
    features: Features, head: LinearHead | None, scaling: Scaling, answered: Features, count: int, seed: int = 0
) -> NDArray[np.intp]:
    """Choose cells to ask about.

    Args:
        features: (N, f) of cells that are neither labelled nor struck out.
        head: as of ``asking_head``; None: nothing is learned yet.
        scaling: of the features.
        answered: (n, f) of the cells that are.
        count: how many.
        seed: of the first ones.

    Returns:
        (count,) positions in ``features``, fewer if it has fewer.
    """
    if len(features) <= count:
        return np.arange(len(features))
    if head is None or len(answered) < FIRST:
        some = np.random.default_rng(seed).permutation(len(features))[: max(CLUSTERED, count)]
        return some[_central(scaling(features[some]), count, seed)]
    found = head.probabilities(features)
    types, is_cell = found[:, :-1], 1 - found[:, -1]
    best = np.partition(types, -2, axis=1)[:, -2:] if types.shape[1] > 1 else np.ones_like(types).repeat(2, axis=1)
    unsure = 1 - (best[:, 1] - best[:, 0]) / np.maximum(best.sum(1), 1e-12)
    considered = np.argsort(-unsure * is_cell, kind="stable")[: UNSURE * count]
    return considered[_farthest_first(scaling(features[considered]), scaling(answered), count)]


def asking_head(features: Features, types: NDArray[np.integer], kinds: int, scaling: Scaling) -> LinearHead | None:
    """A head with ``kinds`` + 1 outputs, the last for struck-out cells; None without a label.

    Args:
        features: (n, f) of labelled and struck-out cells.
        types: (n,) 0 to ``kinds`` - 1, and ``kinds`` of a cell that is struck out.
        kinds: K.
        scaling: of the features.
    """
    return LinearHead.fit(features, types, kinds + 1, scaling) if (types < kinds).any() else None


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
