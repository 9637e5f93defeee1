"""A confusion matrix read in both directions: what became of the true cells of a type, and what its predictions are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
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
    counts = pd.DataFrame(
        report.confusion, [*report.type_names, UNKNOWN, NO_CELL], [*report.type_names, NOT_FOUND], dtype=float
    )
    if not report.n_unknown:
        counts = counts.drop(index=UNKNOWN)
    known = counts.copy()
    known.loc[known.index == UNKNOWN] = np.nan
    return Confusion(
        rows=tuple(counts.index),
        columns=tuple(counts.columns),
        counts=counts.to_numpy(np.int64),
        of_true=counts.div(counts.sum(axis=1), axis=0).to_numpy(),
        of_predicted=known.div(known.sum(axis=0), axis=1).to_numpy(),
    )


def write_confusion(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the matrix as CSV: a row a pair of true and predicted type, its count and both shares, empty if undefined.

    Raises:
        InputError: the file cannot be written.
    """
    matrix = read_confusion(report)
    pairs = pd.MultiIndex.from_product([matrix.rows, matrix.columns], names=["true", "predicted"])
    values = {
        "cells": matrix.counts.ravel(),
        "share_of_true": matrix.of_true.ravel(),
        "share_of_predicted": matrix.of_predicted.ravel(),
    }
    with replacing(Path(path)) as temporary:
        pd.DataFrame(values, index=pairs).to_csv(temporary, float_format="%.6f")
