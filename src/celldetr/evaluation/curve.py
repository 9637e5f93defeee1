"""Detection over all score thresholds at once: precision-recall curve, average precision, scores of hits and misses.

Predictions are paired greedily by falling score, whatever the protocol: only so does every threshold keep a prefix of
the same list, and one pass gives the whole curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.assignment import Floats, Index
from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.pairing import pair_cells

POINTS = 200  # of the curve that a report keeps
BINS = 20  # of the score histogram


@dataclass(frozen=True)
class ScoreCurve:
    """How detection depends on the score threshold.

    Attributes:
        thresholds: falling; a prediction counts when its score is at least this. At most ``POINTS``.
        precision, recall: at each threshold; recall is empty where there is no true cell.
        average_precision: area under the curve, precision at a recall being the best there or at a higher one (PASCAL
            VOC 2010 and COCO, over all points), up to the recall at ``floor``. None without true cells.
        floor: the lowest score seen, None without predictions.
        hits, misses: predictions with and without a true cell in ``BINS`` equal bins of the score over [0, 1].
    """

    thresholds: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    average_precision: float | None
    floor: float | None
    hits: tuple[int, ...]
    misses: tuple[int, ...]


def score_curve(images: Sequence[ImageCells], radius_um: float) -> ScoreCurve:
    """The curve of a split, with all predictions and pairs at most ``radius_um`` apart."""
    hits = [np.isin(np.arange(len(image.pred_scores)), score_pairs(image, radius_um)[0]) for image in images]
    hit, scores = np.concatenate(hits), np.concatenate([image.pred_scores for image in images])
    n_true = sum(len(image.true_xy) for image in images)
    thresholds, precision, recall = precision_recall(scores, hit, n_true)
    area = float(np.sum(np.diff(recall, prepend=0.0) * best_from_here(precision)))
    kept = np.unique(np.linspace(0, len(thresholds) - 1, min(POINTS, len(thresholds))).round().astype(np.intp))
    edges = np.linspace(0, 1, BINS + 1)
    return ScoreCurve(
        thresholds=tuple(thresholds[kept].tolist()),
        precision=tuple(precision[kept].tolist()),
        recall=tuple(recall[kept].tolist()) if n_true else (),
        average_precision=area if n_true else None,
        floor=float(scores.min()) if len(scores) else None,
        hits=tuple(np.histogram(scores[hit], edges)[0].tolist()),
        misses=tuple(np.histogram(scores[~hit], edges)[0].tolist()),
    )


def score_pairs(image: ImageCells, radius_um: float) -> tuple[Index, Index]:
    """Pairs of all predictions with the true cells, by falling score: their positions on either side."""
    radius = radius_um / image.mpp
    return pair_cells(image.pred_xy, image.true_xy, radius, rule="greedy", scores=image.pred_scores)


def precision_recall(scores: Floats, right: NDArray[np.bool_], n_true: int) -> tuple[Floats, Floats, Floats]:
    """Falling thresholds with precision and recall, from (M,) scores, which of them are right, and all true cells."""
    order = np.argsort(-scores, kind="stable")
    # Equal scores pass a threshold together: only the last of them is a point of the curve.
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    hits = np.cumsum(right[order])[last]
    return scores[order][last], hits / (last + 1), hits / max(n_true, 1)


def best_from_here(precision: Floats) -> Floats:
    """At each point of a curve the best precision there or at a higher recall."""
    return np.maximum.accumulate(precision[::-1])[::-1]
