"""Whether scores are probabilities: of the predictions with score s, is the share s right?

Expected calibration error (Naeini et al., AAAI 2015; Guo et al., ICML 2017) over equal bins of the score. Objectness is
right where the prediction has a true cell, a type where it is that cell's known type. Cells are paired as for the
precision-recall curve: all of them, by falling score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.data.sample import UNKNOWN
from celldetr.evaluation.curve import score_pairs
from celldetr.evaluation.image_cells import ImageCells

BINS = 15  # as in Guo et al.


@dataclass(frozen=True)
class Reliability:
    """Stated against true share, in ``BINS`` equal bins of the score over [0, 1]; a score of k / BINS is in bin k.

    Attributes:
        counts: predictions in each bin.
        stated: their mean score; None in an empty bin.
        share_right: how many of them are right; None in an empty bin.
        error: expected calibration error, in [0, 1]; None without predictions.
    """

    counts: tuple[int, ...]
    stated: tuple[float | None, ...]
    share_right: tuple[float | None, ...]
    error: float | None


@dataclass(frozen=True)
class Calibration:
    """Of objectness over all predictions, and of the most probable type over those on a cell of known type."""

    objectness: Reliability
    types: Reliability


def reliability(scores: NDArray[np.floating], right: NDArray[np.bool_]) -> Reliability:
    """Calibration of (M,) scores in [0, 1], of which ``right`` (M,) came true."""
    edges = np.arange(1, BINS) / BINS
    place = np.searchsorted(edges, scores, side="right")
    counts = np.bincount(place, minlength=BINS)
    stated = np.bincount(place, scores, BINS) / np.maximum(counts, 1)
    true = np.bincount(place, right, BINS) / np.maximum(counts, 1)
    return Reliability(
        counts=tuple(counts.tolist()),
        stated=tuple(value if n else None for value, n in zip(stated.tolist(), counts, strict=True)),
        share_right=tuple(value if n else None for value, n in zip(true.tolist(), counts, strict=True)),
        error=float(np.average(np.abs(stated - true), weights=counts)) if len(scores) else None,
    )


def calibration(images: Sequence[ImageCells], radius_um: float) -> Calibration:
    """Calibration over a split, with all predictions and pairs at most ``radius_um`` apart."""
    hit, type_scores, agrees = [], [], []
    for image in images:
        i, j = score_pairs(image, radius_um)
        hit.append(np.isin(np.arange(len(image.pred_scores)), i))
        known = image.true_types[j] != UNKNOWN
        type_scores.append(image.pred_type_scores[i[known]])
        agrees.append(image.pred_types[i[known]] == image.true_types[j[known]])
    scores = np.concatenate([image.pred_scores for image in images])
    return Calibration(
        objectness=reliability(scores, np.concatenate(hit)),
        types=reliability(np.concatenate(type_scores), np.concatenate(agrees)),
    )
