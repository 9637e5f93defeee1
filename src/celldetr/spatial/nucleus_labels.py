"""Types of nuclei from pairs and the types of cells: which are sure enough, and how many are left out and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Config, Count, Probability
from celldetr.data.sample import UNKNOWN
from celldetr.spatial.section import PROBABILITY

if TYPE_CHECKING:
    import pandas as pd


class LabelOptions(Config):
    """When a nucleus takes the type of its cell."""

    min_probability: Probability = Field(0.5, description="Of the cell's type; below, the nucleus is of unknown type.")
    min_margin: Probability = Field(0.2, description="Of the cell's type over the second most probable.")
    min_of_type: Count = Field(10, description="Labelled nuclei; types with fewer are left out.")
    confidence: bool = Field(
        True, description="Weigh a labelled nucleus by the probability of its type; else all weigh alike."
    )


@dataclass(frozen=True)
class NucleusLabels:
    """Labels of M nuclei."""

    names: tuple[str, ...]  # of the K types
    types: NDArray[np.int16]  # (M,) index into ``names``, or ``UNKNOWN``
    confidence: NDArray[np.float32]  # (M,) 1 where the type is unknown
    paired: NDArray[np.bool_]  # (M,) whether there is a cell for it, typed or not
    shares: NDArray[np.float32]  # (M, K) probabilities of the nucleus' cell, rows sum to 1; 0 without a typed cell
    counts: dict[str, int]  # nuclei, those that have a type, and why the others have none


def label_nuclei(
    count: int, pairs: pd.DataFrame, types: pd.DataFrame, options: LabelOptions, names: Sequence[str] | None = None
) -> NucleusLabels:
    """Give nuclei the types of their cells, by tables ``PAIRS`` and ``TYPES``.

    Nuclei of types without a name are of unknown type; without ``names``, types are those that enough nuclei have.
    """
    import pandas as pd

    nucleus = pairs["nucleus"].to_numpy(np.int64)
    row = pd.Index(types["cell_id"]).get_indexer(pd.Index(pairs["cell_id"]))
    typed, cell = nucleus[row >= 0], types.iloc[row[row >= 0]]
    own = cell["type"].to_numpy(dtype=object)
    probability = cell["probability"].to_numpy(np.float32)
    improbable = probability < options.min_probability
    close = ~improbable & (cell["margin"].to_numpy() < options.min_margin)
    sure = ~improbable & ~close & (own != "")
    columns = [str(name).removeprefix(PROBABILITY) for name in types.columns if str(name).startswith(PROBABILITY)]
    if names is None:
        names = [name for name in columns if (own[sure] == name).sum() >= options.min_of_type]
    place = {name: k for k, name in enumerate(names)}
    codes = np.array([place.get(name, UNKNOWN) for name in own], np.int16)
    known = sure & (codes >= 0)
    labels = np.full(count, UNKNOWN, np.int16)
    labels[typed[known]] = codes[known]
    confidence = np.ones(count, np.float32)
    confidence[typed[known]] = probability[known]
    paired = np.zeros(count, dtype=bool)
    paired[nucleus] = True
    shares = np.zeros((count, len(names)), np.float32)
    for k, name in enumerate(names):
        if name in columns:
            shares[typed, k] = cell[PROBABILITY + name]
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    counts = {
        "nuclei": count,
        "without a cell": count - len(nucleus),
        "cell without a type": len(nucleus) - len(typed),
        "type improbable": int(improbable.sum()),
        "second type close": int(close.sum()),
        "of a type left out": int((sure & ~known).sum()),
        "labelled": int(known.sum()),
    }
    return NucleusLabels(tuple(names), labels, confidence, paired, shares, counts)
