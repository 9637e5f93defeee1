"""The scores that several benchmarks print, of one set of cells at one threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.score import score_images
from celldetr.training.validation import PROTOCOL


@dataclass(frozen=True)
class Scores:
    """Under ``within-radius`` unless the name says ``standard``.

    Attributes:
        f1, precision, recall: of detection.
        types: mean F1.
        iou: median, of the boxes of pairs.
    """

    f1: float | None
    f1_standard: float | None
    precision: float | None
    recall: float | None
    types: float | None
    types_standard: float | None
    iou: float | None


def scores_at(threshold: float, images: Sequence[ImageCells], types: Sequence[str]) -> Scores:
    """Score the cells above a threshold."""
    near, standard = (
        score_images(images, types, rule, threshold=threshold, resamples=0) for rule in (PROTOCOL, "standard")
    )
    found = near.totals.detection
    return Scores(
        found.f1,
        standard.totals.detection.f1,
        found.precision,
        found.recall,
        near.totals.mean_f1,
        standard.totals.mean_f1,
        near.median_iou,
    )
