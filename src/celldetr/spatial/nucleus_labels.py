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
from celldetr.errors import InputError
from celldetr.spatial.section import PROBABILITY

if TYPE_CHECKING:
    import pandas as pd


class LabelOptions(Config):
    """When a nucleus takes the type of its cell."""

    min_probability: Probability = Field(0.5, description="Of the cell's type; below, the nucleus is of unknown type.")
    min_margin: Probability = Field(0.2, description="Of the cell's type over the second most probable.")
    min_of_type: Count = Field(
        10, description="Labelled nuclei; types with fewer are left out, unless the types are named."
    )
    confidence: bool = Field(
        True, description="Weigh a labelled nucleus by the probability of its type; else all weigh alike."
    )


@dataclass(frozen=True)
class NucleusLabels:
    """Labels of M nuclei.

    Attributes:
        names: of the K types.
        types: (M,) int16, index into ``names``, or ``UNKNOWN``.
        confidence: (M,) float32, 1 where the type is unknown or all weigh alike.
        paired: (M,) whether there is a cell for it, typed or not.
        shares: (M, K) float32, probability of each type of the nucleus' cell, rows sum to 1; all 0 where the nucleus
            has no typed cell.
        counts: how many nuclei there are, how many have a type, and why the others have none.
    """

    names: tuple[str, ...]
    types: NDArray[np.int16]
    confidence: NDArray[np.float32]
    paired: NDArray[np.bool_]
    shares: NDArray[np.float32]
    counts: dict[str, int]


def label_nuclei(
    count: int,
    pairs: pd.DataFrame | None,
    types: pd.DataFrame | None,
    options: LabelOptions,
    names: Sequence[str] | None = None,
) -> NucleusLabels:
    """Give nuclei the types of their cells.

    Args:
        count: of the nuclei.
        pairs: table ``PAIRS``; None: there are none.
        types: table ``TYPES``; None: no cell has a type.
        options: limits of what is sure enough.
        names: of the types and in which order; nuclei of others are of unknown type. None: the types that some nucleus
            has, in the order of the columns of probabilities.

    Raises:
        InputError: pairs that are not one to one, name other nuclei than there are, or cells that are there twice.
    """
    labels = np.full(count, UNKNOWN, np.int16)
    confidence = np.ones(count, np.float32)
    paired = np.zeros(count, dtype=bool)
    if pairs is None or types is None:
        kinds = tuple(names or ())
        return NucleusLabels(
            kinds, labels, confidence, paired, np.zeros((count, len(kinds)), np.float32), {"nuclei": count}
        )
    nucleus, row = _join(count, pairs, types)
    paired[nucleus] = True
    typed = row >= 0
    where, row = nucleus[typed], row[typed]
    own = types["type"].astype(str).to_numpy(dtype=object)[row]
    probability, margin = (types[column].to_numpy(np.float64)[row] for column in ("probability", "margin"))
    improbable = probability < options.min_probability
    close = ~improbable & ~(margin >= options.min_margin)
    sure = ~improbable & ~close & (own != "")
    chosen = tuple(names) if names is not None else _common_types(types, own[sure], options.min_of_type)
    index = {name: place for place, name in enumerate(chosen)}
    codes = np.array([index.get(name, UNKNOWN) for name in own], np.int16)
    labelled = sure & (codes >= 0)
    labels[where[labelled]] = codes[labelled]
    if options.confidence:
        confidence[where[labelled]] = probability[labelled]
    counts = {
        "nuclei": count,
        "without a cell": count - len(nucleus),
        "cell without a type": int((~typed).sum()),
        "type improbable": int(improbable.sum()),
        "second type close": int(close.sum()),
        "of a type left out": int((sure & (codes < 0)).sum()),
        "labelled": int(labelled.sum()),
    }
    shares = np.zeros((count, len(chosen)), np.float32)
    shares[where] = _shares(types, chosen, own, row)
    return NucleusLabels(chosen, labels, confidence, paired, shares, counts)


def _join(count: int, pairs: pd.DataFrame, types: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nucleus of each pair, and the row of ``types`` of its cell, -1 where it has none."""
    import pandas as pd

    nucleus = pairs["nucleus"].to_numpy(np.int64)
    if len(nucleus) and not 0 <= nucleus.min() <= nucleus.max() < count:
        raise InputError(
            f"pairs: nuclei {nucleus.min()} to {nucleus.max()}, but there are {count}; they are of other nuclei, pair"
            " again"
        )
    cells = pd.Index(types["cell_id"].astype(str))
    paired = pd.Index(pairs["cell_id"].astype(str))
    for what, values in (
        ("pairs: a nucleus", pd.Index(nucleus)),
        ("pairs: a cell", paired),
        ("types: a cell", cells),
    ):
        if values.has_duplicates:
            raise InputError(f"{what} is there twice ({values[values.duplicated()][0]}); expected each once")
    return nucleus, cells.get_indexer(paired).astype(np.int64)


def _common_types(types: pd.DataFrame, sure: NDArray[np.object_], fewest: int) -> tuple[str, ...]:
    """The types that enough nuclei have for sure, in the order of the columns of probabilities, then of the names."""
    columns = [str(name).removeprefix(PROBABILITY) for name in types.columns if str(name).startswith(PROBABILITY)]
    known = dict.fromkeys([*columns, *sorted(types["type"].astype(str).unique())])
    return tuple(name for name in known if (sure == name).sum() >= fewest)


def _shares(
    types: pd.DataFrame, names: Sequence[str], own: NDArray[np.object_], row: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(N, K) probabilities of the named types, rows summing to 1, or to 0 where nothing is left."""
    shares = np.zeros((len(row), len(names)), np.float32)
    has_probabilities = any(str(column).startswith(PROBABILITY) for column in types.columns)
    for place, name in enumerate(names):
        if PROBABILITY + name in types.columns:
            shares[:, place] = np.clip(types[PROBABILITY + name].to_numpy(np.float32)[row], 0, 1)
        elif not has_probabilities:
            shares[:, place] = own == name
    total = shares.sum(axis=1, keepdims=True)
    return np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
