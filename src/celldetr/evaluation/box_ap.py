"""Average precision of boxes at an intersection over union of .5, as COCO defines it (Lin et al., ECCV 2014).

Detection ranks by objectness whatever the types, a type by objectness times its probability. True cells of unknown type
are what COCO calls ignored. Unlike COCO's code it takes all predictions of an image, not the best hundred, and equal
scores pass a threshold together. docs/concepts/evaluation.md has the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.assignment import Index, assign_greedily
from celldetr.data.sample import UNKNOWN
from celldetr.evaluation.curve import best_from_here, precision_recall
from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.metrics import box_iou, mean_defined
from celldetr.evaluation.pairing import Floats, rank_by_score

IOU = 0.5
RECALLS = np.linspace(0, 1, 101)

Ranking = tuple[Floats, NDArray[np.bool_], int]
"""(M,) scores of the predictions that count, whether each is right, and how many true cells there are."""


@dataclass(frozen=True)
class BoxAP:
    """AP of boxes at IoU .5 over a split; None where there is no true cell.

    Attributes:
        detection: whatever the types.
        types: of each of the K types.
    """

    detection: float | None
    types: tuple[float | None, ...]

    @property
    def mean(self) -> float | None:
        """Mean over the types that have true cells."""
        return mean_defined(self.types)


def box_ap(images: Sequence[ImageCells], n_types: int) -> BoxAP:
    """AP of detection and of each of K types, over all predictions."""
    rankings = [_rank(image, n_types) for image in images]
    return BoxAP(
        detection=average_precision([detection for detection, _ in rankings]),
        types=tuple(average_precision([types[c] for _, types in rankings]) for c in range(n_types)),
    )


def average_precision(rankings: Sequence[Ranking]) -> float | None:
    """COCO's AP of the predictions of several images; None without true cells."""
    scores, right, n_true = zip(*rankings, strict=True)
    if not sum(n_true):
        return None
    _, precision, recall = precision_recall(np.concatenate(scores), np.concatenate(right), sum(n_true))
    place = np.searchsorted(recall, RECALLS, side="left")
    return float(np.mean(np.append(best_from_here(precision), 0.0)[place]))


def _rank(image: ImageCells, n_types: int) -> tuple[Ranking, list[Ranking]]:
    """Which predictions of one image are right, whatever their types and for each type."""
    i, j, iou = overlapping(image.pred_boxes, image.true_boxes)
    everything = np.ones(len(image.pred_boxes), bool)
    detection = _choose(image, i, j, -iou, image.pred_scores, everything, np.ones(len(image.true_boxes), bool))
    scores = image.pred_scores * image.pred_type_scores
    unknown = image.true_types == UNKNOWN
    types = []
    for c in range(n_types):
        true = image.true_types == c
        candidate = (image.pred_types[i] == c) & (true[j] | unknown[j])
        # Overlaps are at most 1: any known cell is chosen before any ignored one.
        cost = np.where(unknown[j], 2.0, 0.0) - iou
        types.append(_choose(image, i[candidate], j[candidate], cost[candidate], scores, image.pred_types == c, true))
    return detection, types


def _choose(
    image: ImageCells,
    i: Index,
    j: Index,
    cost: Floats,
    scores: Floats,
    predictions: NDArray[np.bool_],
    true: NDArray[np.bool_],
) -> Ranking:
    """Pair candidates by falling score; ``predictions`` take part, and pairs with cells that are not ``true`` are left
    out."""
    chosen = assign_greedily(i, j, cost, rank_by_score(scores, image.pred_boxes))
    right = np.zeros(len(scores), bool)
    right[i[chosen]] = true[j[chosen]]
    counted = predictions.copy()
    counted[i[chosen]] = true[j[chosen]]
    return scores[counted], right[counted], int(true.sum())


def overlapping(a: Floats, b: Floats) -> tuple[Index, Index, Floats]:
    """Pairs of (M, 4) and (N, 4) xyxy boxes with an IoU of .5 or more: (E,) positions in both, and (E,) IoU."""
    tree = shapely.STRtree(shapely.box(*b.T))
    i, j = tree.query(shapely.box(*a.T))  # those whose boxes touch
    iou = box_iou(a[i], b[j])
    enough = iou >= IOU  # not of NaN, an empty box
    return i[enough], j[enough], iou[enough]
