"""How well the labels so far predict one another: cross-validation in which neighbours stay together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.teach.head import Features, LinearHead, Scaling

FOLDS = 5
SQUARE_UM = 250.0  # labelled cells of one square are left out together: neighbours look alike
MOST = 5000  # cells; of more, a random part is checked, which says the same


@dataclass(frozen=True)
class Check:
    """What cross-validation says of n labels of K types.

    Attributes:
        macro_f1: mean of ``f1`` over the types that have two labels or more; NaN if fewer than two types have.
        f1: (K,) of each type; NaN of one that has not.
        confusion: (K, K) counts, rows what the user said, columns what was predicted.
    """

    macro_f1: float
    f1: NDArray[np.float64]
    confusion: NDArray[np.int64]


def cross_validate(
    features: Features, types: NDArray[np.integer], kinds: int, squares: NDArray[np.integer], scaling: Scaling
) -> Check:
    """Check the head on labels that it has not learned from.

    Args:
        features: (n, f) of the labelled cells.
        types: (n,) 0 to ``kinds`` - 1.
        kinds: K.
        squares: (n,) which cells lie together, as of ``squares_of``.
        scaling: of the features.
    """
    counts = np.bincount(types, minlength=kinds)
    confusion = np.zeros((kinds, kinds), np.int64)
    testable = counts >= 2
    if testable.sum() < 2:
        return Check(float("nan"), np.full(kinds, np.nan), confusion)
    chosen = np.flatnonzero(testable[types])
    if len(chosen) > MOST:
        chosen = np.random.default_rng(0).choice(chosen, MOST, replace=False)
    x, y = features[chosen], types[chosen]
    for train, test in _folds(y, _groups(y, squares[chosen])):
        head = LinearHead.fit(x[train], y[train], kinds, scaling)
        np.add.at(confusion, (y[test], head.probabilities(x[test]).argmax(1)), 1)
    hits, total = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
    f1 = np.where(testable, 2 * hits / np.maximum(total, 1), np.nan)
    return Check(float(np.nanmean(f1)), f1, confusion)


def squares_of(slides: NDArray[np.integer], centres_um: NDArray[np.floating]) -> NDArray[np.int64]:
    """(n,) number of the square of ``SQUARE_UM`` that a cell lies in, from its slide (n,) and centre (n, 2)."""
    at = np.column_stack([slides, np.floor(centres_um / SQUARE_UM)])
    return np.unique(at, axis=0, return_inverse=True)[1].reshape(-1)


def _groups(types: NDArray[np.integer], squares: NDArray[np.integer]) -> NDArray[np.int64]:
    """(n,) cells that are left out together: those of a square, but a type that one square has all of is taken apart,
    or nothing could be learned of it when it is left out."""
    groups = squares.astype(np.int64)
    for kind in np.unique(types):
        mine = np.flatnonzero(types == kind)
        if len(np.unique(squares[mine])) == 1:
            groups[mine] = groups.max() + 1 + np.arange(len(mine))
    return groups


def _folds(
    types: NDArray[np.integer], groups: NDArray[np.integer]
) -> Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    from sklearn.model_selection import StratifiedGroupKFold

    # scikit-learn refuses more folds than the most frequent type has labels.
    count = min(FOLDS, len(np.unique(groups)), int(np.bincount(types).max()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a type may have fewer labels than there are folds
        return list(StratifiedGroupKFold(count, shuffle=True, random_state=0).split(types, types, groups))
