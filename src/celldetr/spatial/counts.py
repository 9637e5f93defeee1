"""Whole counts of transcripts in an AnnData, wherever they are kept: ``X``, a layer or ``raw``.

Files that keep only normalised values are refused, unless the user asks for counts to be recovered from them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from celldetr.errors import InputError, near

if TYPE_CHECKING:
    import anndata
    import pandas as pd

LAYERS = ("counts", "raw_counts")
LARGEST_LOG = 30.0  # expm1 of more is no count
_NOT_WHOLE = 0.02  # of a count; float32 logarithms keep some 1e-5


def find_counts(
    data: anndata.AnnData,
    path: Path,
    place: str = "auto",
    undo: Callable[[Any], Any | None] | None = None,
    advice: str = "",
) -> tuple[Any, pd.DataFrame, str]:
    """The first matrix of whole numbers of X, layers ``counts`` and ``raw_counts``, and raw: (N, G) CSR float32.

    Also the table of its genes, and where it was: X, raw or a layer, and whether a normalisation was undone.

    Args:
        data: of the file.
        path, advice: how a message begins and ends.
        place: ``X``, ``raw`` or the name of a layer: only there.
        undo: recovers counts from normalised values, or returns None where it cannot; of raw first.
    """
    matrices: dict[str, tuple[Any, Any]] = {"X": (data.X, data.var)}
    matrices |= {str(name): (data.layers[name], data.var) for name in data.layers}
    if data.raw is not None:
        matrices["raw"] = (data.raw.X, data.raw.var)
    if place != "auto" and place not in matrices:
        raise InputError(f"{path}: has no matrix of counts {place!r}; {near(place, [*matrices, 'auto'])}")
    order = [name for name in (["X", *LAYERS, "raw"] if place == "auto" else [place]) if name in matrices]
    order = [name for name in order if matrices[name][0] is not None]
    for name in order:
        matrix, var = matrices[name]
        if is_whole(matrix) and np.any(_values(matrix)):
            return csr_counts(matrix), var, name
    for name in reversed(order):
        matrix, var = matrices[name]
        if undo is not None and (counts := undo(matrix)) is not None:
            return counts, var, f"{name}, normalisation undone"
    others = ", ".join(name for name in matrices if name not in order)
    more = f", or name another of its matrices ({others})" if others else ""
    raise InputError(
        f"{path}: holds no whole counts (looked at {', '.join(order) or 'no matrix'}); save them as X or as layer"
        f" 'counts'{more}{advice}"
    )


def csr_counts(matrix: Any) -> Any:
    """A dense or sparse matrix as CSR float32, sorted, without stored zeros."""
    from scipy import sparse

    csr = sparse.csr_matrix(matrix).astype(np.float32)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr


def is_whole(matrix: Any) -> bool:
    """Whether a dense or sparse matrix holds whole numbers of 0 and more, and nothing else."""
    values = _values(matrix)
    if values.dtype.kind not in "biuf":
        return False
    flat, step = values.reshape(-1), 1 << 22  # in pieces: no copies as large as the matrix
    for start in range(0, flat.size, step):
        piece = flat[start : start + step]
        if not (np.isfinite(piece).all() and (piece >= 0).all() and (piece == np.floor(piece)).all()):
            return False
    return True


def _values(matrix: Any) -> Any:
    return np.asarray(matrix.data if hasattr(matrix, "tocsr") else matrix)


def undo_log_approximately(matrix: Any) -> Any | None:
    """Counts from logarithms, as CSR: ``expm1``, divided by each cell's smallest value, which is mostly one transcript.

    Cells without a gene of one transcript come out too small. None: the values are no logarithms.
    """
    out = csr_counts(matrix).astype(np.float64)
    if not (out.nnz and np.isfinite(out.data).all() and out.data.min() >= 0 and out.data.max() < LARGEST_LOG):
        return None
    out.data = np.expm1(out.data)
    starts, lengths = _rows(out)
    out.data = np.round(out.data / np.repeat(np.minimum.reduceat(out.data, starts), lengths))
    return out.astype(np.float32)


def undo_log_provably(matrix: Any) -> Any | None:
    """Counts from values that were divided by each cell's total and then, perhaps, went through log1p.

    That they were is proved by equal totals of all cells, of the values or of their expm1. A cell's smallest value is
    then taken for one transcript, or else two, three or four, which is proved by all others being whole as well. (A
    cell all of whose counts share a factor comes back divided by it; with tens of genes a cell that is rare.) None: not
    provable.
    """
    out = csr_counts(matrix)
    if not (out.nnz and np.isfinite(out.data).all() and out.data.min() >= 0):
        return None
    starts, lengths = _rows(out)
    with np.errstate(over="ignore"):
        meanings = [np.expm1(out.data.astype(np.float64)), out.data.astype(np.float64)]
    for values in meanings:
        totals = np.add.reduceat(values, starts)
        if not np.ptp(totals) <= 1e-3 * totals.mean() < np.inf:
            continue
        ratio = values / np.repeat(np.minimum.reduceat(values, starts), lengths)
        unit = np.ones(len(starts))  # transcripts of each cell's smallest value
        for least in (2.0, 3.0, 4.0, np.nan):
            scaled = ratio * np.repeat(unit, lengths)
            off = np.maximum.reduceat(np.abs(scaled - np.rint(scaled)), starts) > _NOT_WHOLE
            if not off.any():
                out.data = np.rint(scaled).astype(np.float32)
                return out
            unit[off] = least
    return None


def _rows(matrix: Any) -> tuple[Any, Any]:
    """Where the rows of a CSR matrix start that hold anything, and how much they hold."""
    lengths = np.diff(matrix.indptr)
    return matrix.indptr[:-1][lengths > 0], lengths[lengths > 0]
