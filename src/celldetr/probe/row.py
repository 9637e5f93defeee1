"""What was measured of one method: counts, from which every number and interval of the report is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.data.label_share import draw_labels
from celldetr.errors import InputError
from celldetr.io.files import read_json, write_json
from celldetr.probe.classify import Features, Types, choose_strength, confusion, knn, linear, standardise
from celldetr.probe.retrieval import neighbours
from celldetr.probe.truth import Truth

SHARES = (0.01, 0.1, 1.0)  # of the training labels
DRAWS = 2  # of the labels, for each seed and share below 1
FROZEN = ("knn", "linear")  # classifiers on frozen vectors
FINETUNED = "finetuned"

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class MethodRow:
    """One method on one test split.

    Attributes:
        name, title, identity: of the method.
        dim: length of a vector.
        ms_per_cell: processor time of embedding, one thread, all cells of both splits.
        cells: (train, test).
        counts: classifier (``FROZEN``; ``FINETUNED`` if it was asked for and the row is a network) -> share of labels
            -> (D, U, K, K) counts of each draw and test unit, rows true.
        strengths: share -> the D strengths of regularisation chosen.
        retrieval: (S, U, K, 4), leak (S, U, 3): see ``Neighbours``, for each seed.
    """

    name: str
    title: str
    identity: str
    dim: int
    ms_per_cell: float
    cells: tuple[int, int]
    counts: dict[str, dict[float, Counts]]
    strengths: dict[float, list[float]]
    retrieval: NDArray[np.float64]
    leak: NDArray[np.float64]


def measure(
    features: Sequence[tuple[Features, Features]], train: Truth, test: Truth, n_types: int, seeds: int
) -> dict[str, Any]:
    """Everything of a row that is computed from vectors; nothing of it is chosen on test cells.

    Args:
        features: of training and test cells, for each seed; one pair if they do not depend on it.
        train, test: the cells.
        n_types: K.
        seeds: number of them.

    Returns:
        the fields ``counts``, ``strengths``, ``retrieval`` and ``leak`` of a ``MethodRow``.
    """
    ready = [standardise(*pair) for pair in features]
    counts: dict[str, dict[float, Counts]] = {name: {} for name in FROZEN}
    strengths: dict[float, list[float]] = {}
    for share in SHARES:
        by_knn, by_linear, chosen = list[Types](), list[Types](), list[float]()
        fitted: dict[tuple[int, float], Types] = {}  # with all labels a draw differs in its folds only
        for draw in range(seeds if share == 1 else seeds * DRAWS):
            which = draw % seeds % len(ready)
            x, y = ready[which]
            kept = draw_labels(train.types, share, draw)
            x, types, units = x[kept], train.types[kept], train.units[kept]
            strength = choose_strength(x, types, units, n_types, draw)
            if share < 1 or (which, strength) not in fitted:
                fitted[which, strength] = linear(x, types, y, strength)
            by_linear.append(fitted[which, strength])
            by_knn.append(by_knn[which] if share == 1 and which < draw else knn(x, types, y, n_types))
            chosen.append(strength)
        counts["knn"][share] = np.stack([by_unit(test, predicted, n_types) for predicted in by_knn])
        counts["linear"][share] = np.stack([by_unit(test, predicted, n_types) for predicted in by_linear])
        strengths[share] = chosen
    around = [neighbours(y, test.types, test.images, test.units, n_types) for _, y in ready]
    return {
        "counts": counts,
        "strengths": strengths,
        "retrieval": np.stack([each.retrieval for each in around]),
        "leak": np.stack([each.leak for each in around]),
    }


def by_unit(test: Truth, predicted: Types, n_types: int) -> Counts:
    """(U, K, K) counts of each test unit, rows true, from (N,) predicted types."""
    masks = [test.units == unit for unit in range(test.n_units)]
    return np.stack([confusion(test.types[mask], predicted[mask], n_types) for mask in masks])


def write_row(path: Path, row: MethodRow) -> None:
    """Write a row as JSON."""
    values = dict(vars(row))
    for kind, by_share in values.pop("counts").items():
        values[kind] = {str(share): counts.tolist() for share, counts in by_share.items()}
    values["strengths"] = {str(share): chosen for share, chosen in row.strengths.items()}
    write_json(path, values | {"retrieval": row.retrieval.tolist(), "leak": row.leak.tolist()})


def read_row(path: Path) -> MethodRow:
    """A row that ``write_row`` wrote.

    Raises:
        InputError: the file holds something else.
    """
    values = read_json(path) or {}
    try:
        values["counts"] = {}
        for kind in FROZEN:
            by_share = values.pop(kind).items()
            values["counts"][kind] = {float(share): np.array(counts, np.int64) for share, counts in by_share}
        values["strengths"] = {float(share): list(chosen) for share, chosen in values["strengths"].items()}
        values |= {name: np.array(values[name], np.float64) for name in ("retrieval", "leak")}
        return MethodRow(**values | {"cells": tuple(values["cells"])})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a row of a probe ({error}); run again with `overwrite=True`") from None
