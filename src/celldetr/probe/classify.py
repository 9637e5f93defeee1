"""Types read off frozen vectors, standardised with the training cells, by neighbours and by a linear classifier."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 20
TEMPERATURE = 0.07  # neighbours weigh exp(cosine / temperature), as in DINO (ICCV 2021) and before it
# scikit-learn's C: small is strong regularisation. It weighs the sum of the losses: of more cells than it was chosen on
# each is regularised less, as it should be. (On CoNSeP four times the cells bear ten times less.)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 3
REPEATS = 3  # of cross-validation; one alone takes neighbours in STRENGTHS for each other, which costs up to .05 of F1
CHOICE_CELLS = 4000  # most cells on which the strength is chosen
CHUNK = 2**23  # similarities in memory at once

Features = NDArray[np.float32]
Types = NDArray[np.int64]


def standardise(train: Features, *others: Features) -> list[Features]:
    """All with the training cells' mean and standard deviation; a constant coordinate becomes 0."""
    mean, sd = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    scale = np.where(sd > 1e-6 * np.maximum(np.abs(mean), 1e-6), 1 / np.maximum(sd, 1e-12), 0.0)
    return [((x - mean) * scale).astype(np.float32) for x in (train, *others)]


def unit_length(x: Features) -> Features:
    """Rows of length 1; a row of zeros stays."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def similarities(queries: Features, gallery: Features) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Cosines of unit-length rows, some queries at a time: which, and (n, len(gallery))."""
    step = max(1, CHUNK // max(1, len(gallery)))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        yield rows, queries[rows] @ gallery.T


def knn(train: Features, types: Types, test: Features, n_types: int) -> Types:
    """(M,) types that the ``NEIGHBOURS`` nearest of (N, d) training cells have, weighted by their cosine."""
    k = min(NEIGHBOURS, len(train))
    predicted = np.empty(len(test), np.int64)
    for rows, cosine in similarities(unit_length(test), unit_length(train)):
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        weight = np.exp((np.take_along_axis(cosine, nearest, 1).astype(np.float64) - 1) / TEMPERATURE)
        votes = np.zeros((len(cosine), n_types))
        np.add.at(votes, (np.arange(len(cosine))[:, None], types[nearest]), weight)
        predicted[rows] = votes.argmax(1)
    return predicted


def linear(train: Features, types: Types, test: Features, strength: float) -> Types:
    """(M,) types by multinomial logistic regression; ``strength`` is scikit-learn's C."""
    if len(np.unique(types)) < 2:
        return np.full(len(test), types[0])
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # Of few cells and weak regularisation; more iterations change hardly any type.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(train, types)
    return np.asarray(fitted.predict(test), np.int64)


def choose_strength(train: Features, types: Types, units: Types, n_types: int, seed: int) -> float:
    """The regularisation with the best macro F1 in cross-validation on training cells.

    Args:
        train: (N, d), standardised.
        types, units: (N,); all cells of a unit (patient or image) are in one fold.
        n_types: K.
        seed: of the folds, and of the ``CHOICE_CELLS`` cells that are drawn for each cross-validation.

    Returns:
        one of ``STRENGTHS``; the middle one where cross-validation is impossible (one unit).
    """
    rng = np.random.default_rng(seed)
    scores = np.zeros(len(STRENGTHS))
    for _ in range(REPEATS):
        chosen = rng.permutation(len(train))[:CHOICE_CELLS]
        x, y = train[chosen], types[chosen]
        folds = folds_of(units[chosen], rng)
        if not folds.any():  # all that were drawn are of one unit
            continue
        for i, strength in enumerate(STRENGTHS):
            counts = np.zeros((n_types, n_types), np.int64)
            for fold in range(folds.max() + 1):
                out = folds == fold
                counts += confusion(y[out], linear(x[~out], y[~out], x[out], strength), n_types)
            scores[i] += macro_f1(counts)
    return STRENGTHS[int(np.argmax(scores)) if scores.any() else len(STRENGTHS) // 2]


def folds_of(units: Types, rng: np.random.Generator) -> Types:
    """(N,) fold of each cell, 0 to ``FOLDS`` - 1; no unit is in two."""
    names, where = np.unique(units, return_inverse=True)
    return (rng.permutation(len(names)) % FOLDS)[where]


def confusion(true: Types, predicted: Types, n_types: int) -> NDArray[np.int64]:
    """(K, K) counts, rows true."""
    return np.bincount(true * n_types + predicted, minlength=n_types**2).reshape(n_types, n_types)


def type_f1(counts: NDArray) -> NDArray[np.float64]:
    """(..., K, K) counts, rows true -> (..., K) F1 of each type; NaN where it was neither there nor predicted."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    total = counts.sum(-1) + counts.sum(-2)
    return np.divide(2 * hits, total, out=np.full(hits.shape, np.nan), where=total > 0)


def macro_f1(counts: NDArray) -> NDArray[np.float64]:
    """(..., K, K) counts -> (...) mean F1 of the types that have one."""
    f1 = type_f1(counts)
    defined = ~np.isnan(f1)
    return np.where(defined, f1, 0).sum(-1) / np.maximum(defined.sum(-1), 1)
