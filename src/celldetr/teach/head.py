"""A linear head on frozen embeddings: multinomial logistic regression that learns from tens of labels in milliseconds.

Features are standardised with the mean and standard deviation of all cells of the run, which are many, not with those
of the labelled ones, which are few. Every type weighs the same however many labels it has, so that a rare one that was
labelled ten times is not drowned. The L2 penalty is of the sum of the losses, so many labels are regularised less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from celldetr.errors import InputError

PENALTY, EARLY = 10.0, 1000.0  # L2 penalty of n labels: PENALTY + EARLY / n; chosen on CoNSeP train (teach_curve.py)
ITERATIONS = 100
BLOCK = 2**15  # cells at once

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation (f,) of the features of many cells; a feature that is constant becomes 0."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def of(cls, features: Features) -> Self:
        """Of (N, f) features; what is not finite is left out."""
        mean, sd = np.zeros((2, features.shape[1]))
        for j, column in enumerate(features.T):  # one by one, because of all together float64 copies would be large
            if len(values := column[np.isfinite(column)].astype(np.float64)):
                mean[j], sd[j] = values.mean(), values.std()
        scale = np.where(sd > 1e-6 * np.maximum(np.abs(mean), 1e-6), 1 / np.maximum(sd, 1e-12), 0.0)
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def __call__(self, features: Features) -> Features:
        """(n, f) standardised; what is not finite becomes 0, the mean."""
        values = (features - self.mean) * self.scale
        return np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class LinearHead:
    """Probabilities of K types from f features: softmax of ``scaling(features) @ weights + bias``.

    Attributes:
        scaling: of the features.
        weights: (f, K) float32.
        bias: (K,) float32.
    """

    scaling: Scaling
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def fit(cls, features: Features, types: NDArray[np.integer], kinds: int, scaling: Scaling) -> Self:
        """Learn from (n, f) features of labelled cells and their types (n,), 0 to ``kinds`` - 1.

        A type without a label is never predicted: its bias is -inf.
        """
        known = np.unique(types)
        if not len(known):
            raise InputError("no cell is labelled yet")
        x, y = scaling(features).astype(np.float64), np.searchsorted(known, types)
        weights, bias = _solve(x, y, len(known))
        every, offset = np.zeros((x.shape[1], kinds), np.float32), np.full(kinds, -np.inf, np.float32)
        every[:, known], offset[known] = weights, bias
        return cls(scaling, every, offset)

    @property
    def known(self) -> int:
        """Number of types that had labels."""
        return int(np.isfinite(self.bias).sum())

    def probabilities(self, features: Features) -> NDArray[np.float32]:
        """(n, f) features -> (n, K)."""
        mean, scale = self.scaling.mean, self.scaling.scale
        # Of a million cells, scaling the weights is cheaper than scaling the features.
        known = features if np.isfinite(features).all() else np.where(np.isfinite(features), features, mean)
        scores = known @ (scale[:, None] * self.weights) + (self.bias - (mean * scale) @ self.weights)
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        return scores


def _solve(x: NDArray[np.float64], y: NDArray[np.intp], kinds: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (f, kinds) and bias (kinds,) of least penalised loss."""
    n, f = x.shape
    counts = np.bincount(y, minlength=kinds)
    penalty = PENALTY + EARLY / n
    weight = (n / kinds / counts)[y]
    truth = np.eye(kinds)[y]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        both = flat.reshape(f + 1, kinds)
        scores = x @ both[:f] + both[f]
        total = logsumexp(scores, axis=1)
        value = float((weight * (total - scores[np.arange(n), y])).sum() + penalty / 2 * (both[:f] ** 2).sum())
        error = weight[:, None] * (np.exp(scores - total[:, None]) - truth)
        gradient = np.concatenate([x.T @ error + penalty * both[:f], error.sum(0, keepdims=True)])
        return value, gradient.ravel()

    found = minimize(loss, np.zeros((f + 1) * kinds), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    both = found.x.reshape(f + 1, kinds)
    return both[:f], both[f]
