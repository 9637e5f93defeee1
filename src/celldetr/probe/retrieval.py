"""Are a cell's nearest neighbours of its type, and do they come from its own image rather than from anywhere?

For the first question other units (patients or images) are searched: cells of one image share stain and surroundings.
The second is asked within a type, so that an image full of lymphocytes does not count as a leak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.probe.classify import Features, Types, similarities, unit_length

FAR = 10  # neighbours of the longer list
MOST_QUERIES = 20_000  # cells that ask, of all: time then grows with their number and not its square


@dataclass(frozen=True)
class Retrieved:
    """Sums over the cells of each unit, to be added and divided.

    Attributes:
        retrieval: (U, K, 4) by type of the cell: cells, those whose nearest neighbour has their type, sum of the share
            of the ``FAR`` nearest that has it, sum of the share of all candidates that has it (chance).
        leak: (U, 3) cells, sum of the share of the ``FAR`` nearest of the same type that is from the same image, the
            same by chance.
    """

    retrieval: NDArray[np.float64]
    leak: NDArray[np.float64]


def neighbours(features: Features, types: Types, images: Types, units: Types, n_types: int) -> Retrieved:
    """Look up the neighbours of every cell, or of ``MOST_QUERIES`` drawn ones, among all (N, d), by cosine."""
    x = unit_length(features)
    n_units = int(units.max(initial=-1)) + 1
    retrieval, leak = np.zeros((n_units, n_types, 4)), np.zeros((n_units, 3))
    queries = np.sort(np.random.default_rng(0).permutation(len(x))[:MOST_QUERIES])
    for rows, cosine in similarities(x[queries], x):
        cells = queries[rows]
        own, unit, image = types[cells], units[cells], images[cells]
        other, same_type = unit[:, None] != units, own[:, None] == types
        candidates = other.sum(1)
        near, enough = _nearest(np.where(other, cosine, -np.inf), candidates)
        hit = same_type[np.arange(len(own))[:, None], near]
        chance = (same_type & other).sum(1) / np.maximum(candidates, 1)
        sums = np.stack([np.ones(len(own)), hit[:, 0], hit.mean(1), chance], axis=1)[enough]
        np.add.at(retrieval, (unit[enough], own[enough]), sums)

        same_type[np.arange(len(own)), cells] = False  # not the cell itself
        candidates = same_type.sum(1)
        near, enough = _nearest(np.where(same_type, cosine, -np.inf), candidates)
        same_image = image[:, None] == images
        share = same_image[np.arange(len(own))[:, None], near].mean(1)
        chance = (same_image & same_type).sum(1) / np.maximum(candidates, 1)
        np.add.at(leak, unit[enough], np.stack([np.ones(len(own)), share, chance], axis=1)[enough])
    return Retrieved(retrieval, leak)


def nearest_elsewhere(features: Features, units: Types, queries: Types, count: int) -> Types:
    """(Q, count) the nearest cells of other units, nearest first; -1 where other units have no more cells."""
    x = unit_length(features)
    cosine = np.where(units[queries][:, None] != units, x[queries] @ x.T, -np.inf)
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    nearest[np.isneginf(np.take_along_axis(cosine, nearest, 1))] = -1
    return np.pad(nearest, ((0, 0), (0, count - nearest.shape[1])), constant_values=-1)


def _nearest(cosine: NDArray[np.floating], candidates: Types) -> tuple[Types, NDArray[np.bool_]]:
    """(n, FAR) the nearest columns, nearest first, and which rows have so many candidates."""
    k = min(FAR, cosine.shape[1])
    near = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(cosine, near, 1), axis=1, kind="stable")
    return np.take_along_axis(near, order, 1), candidates >= FAR
