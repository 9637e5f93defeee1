"""Random shares of the labels, or of the images, of a data set; of one seed, larger shares hold the smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from celldetr.data.sample import UNKNOWN, Sample


def draw_labels(types: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Draw a share of the cells (N,) of each type, at least one of each; returns a mask (N,)."""
    kept = np.zeros(len(types), dtype=bool)
    rng = np.random.default_rng(seed)
    for kind in np.unique(types[types != UNKNOWN]):
        order = rng.permutation(np.flatnonzero(types == kind))
        kept[order[: max(1, round(share * len(order)))]] = True
    return kept


def with_label_share(samples: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """Samples in which a share of the cells have their type; the others become of unknown type."""
    if not samples:
        return []
    types = np.concatenate([sample.types for sample in samples])
    left = np.where(draw_labels(types, share, seed), types, UNKNOWN)
    ends = np.cumsum([len(sample) for sample in samples])[:-1]
    # A spot's composition is a label of the cells in it, among them those that have none now.
    parts = zip(samples, np.split(left, ends), strict=True)
    return [replace(sample, types=part, spots=None) for sample, part in parts]


def with_image_share(samples: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """A share of the images that have cells, in their order; at least one, if there is one."""
    order = np.random.default_rng(seed).permutation([i for i, sample in enumerate(samples) if len(sample)])
    return [samples[i] for i in sorted(order[: max(1, round(share * len(order)))].tolist())]
