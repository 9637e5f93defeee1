"""From pairs and types of cells to types of nuclei: which are sure enough, and what becomes of the others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.config import Config, Count, Probability
from celldetr.data.sample import UNKNOWN
from celldetr.errors import InputError
from celldetr.spatial.schemas import PROBABILITY

if TYPE_CHECKING:
    import pandas as pd


class LabelOptions(Config):
    """When a nucleus takes the type of its cell."""

    min_probability: Probability = 0.5  # of the cell's type; below, the nucleus is of unknown type
    min_margin: Probability = 0.2  # over the second most probable type
    min_of_type: Count = 10  # labelled nuclei; types with fewer are left out, unless the types are named
    # What a labelled nucleus weighs when types are learned: the probability of its type, or all alike.
    confidence: bool = True


@dataclass(frozen=True)
class NucleusLabels:
    """What is known of M nuclei.

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
        pairs: ``steps.PAIRS``; None: there are none.
        types: ``steps.TYPES``; None: no cell has a type.
        options: what is sure enough.
        names: of the types and in which order; nuclei of others are of unknown type. None: the types that some nucleus
            has, in the order of the columns of probabilities.

    Raises:
        InputError: pairs that are not one to one, name other nuclei than there are, or cells that are there twice.
    """
    if pairs is None or types is None:
        blank = np.full(count, UNKNOWN, np.int16), np.ones(count, np.float32), np.zeros(count, dtype=bool)
        kinds = tuple(names or ())
        return NucleusLabels(kinds, *blank, np.zeros((count, len(kinds)), np.float32), {"nuclei": count})
    nucleus, row = _pair(count, pairs, types)
    known = tuple(str(c)[len(PROBABILITY) :] for c in types.columns if str(c).startswith(PROBABILITY))
    known = tuple(dict.fromkeys([*known, *sorted(types["type"].astype(str).unique())]))
    typed = row >= 0
    where, row = nucleus[typed], row[typed]
    index = {name: place for place, name in enumerate(known)}
    codes: NDArray[np.int64] = types["type"].astype(str).map(index).to_numpy(np.int64)[row].astype(np.int64)
    probability, margin = (types[column].to_numpy(np.float64)[row] for column in ("probability", "margin"))
    wrong = ~((probability >= 0) & (probability <= 1))
    if wrong.any():
        raise InputError(f"types: probability {probability[wrong][0]} of a cell, expected 0 to 1; run the typing again")
    improbable = probability < options.min_probability
    close = ~improbable & ~(margin >= options.min_margin)
    sure = ~improbable & ~close & (codes != index.get("", -1))  # "": nothing is known of the cell
    there = np.bincount(codes[sure], minlength=len(known)) >= options.min_of_type
    kept = tuple(names) if names is not None else tuple(name for name, has in zip(known, there, strict=True) if has)
    table = np.array([kept.index(name) if name in kept else UNKNOWN for name in known], np.int64)
    wanted = table[codes]
    labelled = sure & (wanted >= 0)
    out = np.full(count, UNKNOWN, np.int16)
    out[where[labelled]] = wanted[labelled]
    confidence = np.ones(count, np.float32)
    if options.confidence:
        confidence[where[labelled]] = probability[labelled]
    paired = np.zeros(count, dtype=bool)
    paired[nucleus] = True
    counts = {
        "nuclei": count,
        "without a cell": count - len(nucleus),
        "cell without a type": int((~typed).sum()),
        "type improbable": int(improbable.sum()),
        "second type close": int(close.sum()),
        "of a type left out": int((sure & (wanted < 0)).sum()),
        "labelled": int(labelled.sum()),
    }
    shares = np.zeros((count, len(kept)), np.float32)
    shares[where] = _shares(types, known, kept, codes, row)
    return NucleusLabels(kept, out, confidence, paired, shares, counts)


def _pair(count: int, pairs: pd.DataFrame, types: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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


def _shares(
    types: pd.DataFrame, known: Sequence[str], kept: Sequence[str], codes: NDArray[np.int64], row: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(N, K) probabilities of the types that are kept, rows summing to 1, or to 0 where nothing is left."""
    shares = np.zeros((len(row), len(kept)), np.float32)
    told = any(PROBABILITY + name in types.columns for name in known)
    for place, name in enumerate(kept):
        if PROBABILITY + name in types.columns:
            shares[:, place] = np.clip(types[PROBABILITY + name].to_numpy(np.float32)[row], 0, 1)
        elif not told and name in known:
            shares[:, place] = codes == known.index(name)
    total = shares.sum(axis=1, keepdims=True)
    return np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)


def digest(table: pd.DataFrame) -> str:
    """SHA-256 of a table's columns and values."""
    state = hashlib.sha256()
    for name in table.columns:
        column = table[name]
        state.update(str(name).encode())
        values = column.to_numpy()
        if values.dtype.kind in "biuf":
            state.update(np.ascontiguousarray(values).tobytes())
        else:
            state.update("\0".join(column.astype(str)).encode("utf-8", "surrogateescape"))
    return state.hexdigest()
