"""A confusion matrix read in both directions: what became of the true cells of a type, and what its predictions are."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celldetr.evaluation.report import Report
from celldetr.io.files import replacing

UNKNOWN, NO_CELL, NOT_FOUND = "type unknown", "no cell", "not found"


@dataclass(frozen=True)
class Confusion:
    """Counts with both their shares.

    Attributes:
        rows: R true types, then ``UNKNOWN`` where there are such cells, and ``NO_CELL``.
        columns: C predicted types, then ``NOT_FOUND``.
        counts: (R, C).
        of_true: (R, C) shares of each row; NaN where it is empty.
        of_predicted: (R, C) shares of each column; NaN where it is empty, and in the row of unknown types, which is
            left out of the sums: what is predicted there is neither right nor wrong.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: NDArray[np.int64]
    of_true: NDArray[np.float64]
    of_predicted: NDArray[np.float64]


def read_confusion(report: Report) -> Confusion:
    """Both directions of a report's confusion matrix."""
    rows = [*report.type_names, UNKNOWN, NO_CELL]
    counts = np.array(report.confusion, np.int64)
    if not report.n_unknown:
        del rows[-2]
        counts = np.delete(counts, -2, axis=0)
    known = np.array([[row != UNKNOWN] for row in rows])
    return Confusion(
        tuple(rows),
        (*report.type_names, NOT_FOUND),
        counts,
        _shares(counts.astype(np.float64), axis=1),
        _shares(np.where(known, counts, np.nan), axis=0),
    )


def _shares(counts: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    total = np.nansum(counts, axis=axis, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def write_confusion(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the matrix as CSV: a row a pair of true and predicted type, its count and both shares, empty if undefined.

    Raises:
        InputError: the file cannot be written.
    """
    matrix = read_confusion(report)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", "predicted", "cells", "share_of_true", "share_of_predicted"])
    for (i, j), count in np.ndenumerate(matrix.counts):
        shares = (matrix.of_true[i, j], matrix.of_predicted[i, j])
        numbers = ["" if np.isnan(share) else f"{share:.6f}" for share in shares]
        writer.writerow([matrix.rows[i], matrix.columns[j], int(count), *numbers])
    with replacing(Path(path)) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
