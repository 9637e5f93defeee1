"""Familiarity: how strange a cell is to what a network was trained on, from its embedding.

The distance is Mahalanobis' to the mean of the embeddings of training nuclei (Lee et al., NeurIPS 2018, of one class).
More centres tell foreign tissue no better (benchmarks/familiarity.py). It becomes a share: that of training nuclei, in
images left out of mean and covariance, that are as far away or farther.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PREFIX = "familiarity."  # of its tensors in the file of the weights
FOLDS = 5
FEWEST = 1000  # nuclei; a covariance of fewer is noise
STEPS = 100  # of the shares
LEAST_VARIANCE = 1e-3  # of a direction, as a part of the mean variance; what varies less is rounding


@dataclass(frozen=True)
class Familiarity:
    """Embeddings of training nuclei, summed up.

    Attributes:
        mean: (d,) float32.
        whitening: (d, d) float32; ``(embedding - mean) @ whitening`` has unit covariance.
        distances: (STEPS + 1,) float32, rising, quantiles of the distances of training nuclei of images left out.
    """

    mean: NDArray[np.float32]
    whitening: NDArray[np.float32]
    distances: NDArray[np.float32]

    @classmethod
    def of_training(cls, embeddings: NDArray[np.floating], groups: NDArray[np.integer]) -> Self | None:
        """Sum up embeddings (N, d) of nuclei, with the number (N,) of each one's image or patient.

        Returns:
            None if there are fewer than ``FEWEST`` nuclei, or groups than ``FOLDS``.
        """
        names = np.unique(groups)
        if len(embeddings) < FEWEST or len(names) < FOLDS:
            return None
        values = np.asarray(embeddings, np.float64)
        fold = np.random.default_rng(0).permutation(len(names))[np.searchsorted(names, groups)] % FOLDS
        distances = np.empty(len(values))
        for k in range(FOLDS):
            apart = fold == k
            distances[apart] = _distances(values[apart], *_gaussian(values[~apart]))
        mean, whitening = _gaussian(values)
        quantiles = np.quantile(distances, np.linspace(0, 1, STEPS + 1))
        return cls(mean.astype(np.float32), _rounded(whitening), quantiles.astype(np.float32))

    def __call__(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Embeddings (N, d) -> (N,) in [0, 1]: 0.05 is as strange as the strangest 5 % of training nuclei."""
        distances = _distances(embeddings.astype(np.float32), self.mean, self.whitening)
        return np.interp(distances, self.distances, np.linspace(1, 0, STEPS + 1)).astype(np.float32)

    def tensors(self) -> dict[str, Tensor]:
        """As they are stored; the large one in half precision."""
        stored = {"mean": self.mean, "whitening": self.whitening.astype(np.float16), "distances": self.distances}
        return {PREFIX + name: torch.from_numpy(value) for name, value in stored.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], dim: int) -> Self | None:
        """What ``tensors`` of a file hold, for embeddings of length ``dim``; None if they hold nothing of it.

        Raises:
            ValueError: incomplete, or not of this size.
        """
        found = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        if not found:
            return None
        shapes = {"mean": (dim,), "whitening": (dim, dim), "distances": (STEPS + 1,)}
        if {name: tuple(value.shape) for name, value in found.items()} != shapes:
            raise ValueError(f"tensors {PREFIX}* are not {shapes}")
        return cls(**{name: value.float().numpy() for name, value in found.items()})


def _gaussian(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (d,) and whitening (d, d) of (N, d)."""
    variances, directions = np.linalg.eigh(np.cov(values.T))
    return values.mean(0), directions / np.sqrt(variances.clip(0) + LEAST_VARIANCE * variances.mean())


def _distances(
    values: NDArray[np.floating], mean: NDArray[np.floating], whitening: NDArray[np.floating]
) -> NDArray[np.floating]:
    distances: NDArray[np.floating] = np.linalg.norm((values - mean) @ whitening, axis=1)
    return distances


def _rounded(whitening: NDArray[np.float64]) -> NDArray[np.float32]:
    """As it is read back from half precision."""
    return whitening.astype(np.float16).astype(np.float32)
