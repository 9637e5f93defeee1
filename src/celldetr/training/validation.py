"""Validation during training: the threshold that suits a network, and the scores it reaches there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from celldetr.data.sample import Sample
from celldetr.data.spots import Spots
from celldetr.data.tiling import pieces
from celldetr.evaluation.image_cells import LOWEST_SCORE, ImageCells, image_cells
from celldetr.evaluation.protocols import find_protocol, pair_image
from celldetr.evaluation.report import Report
from celldetr.evaluation.score import score_images
from celldetr.evaluation.threshold import THRESHOLD_PROTOCOLS, best_threshold
from celldetr.model.inference import TilePredictor

PROTOCOL = "within-radius"  # of the choice among checkpoints: under ``standard`` F1 is noisier
Numbers = dict[str, float | None]  # by name, for log and card


def predict_images(
    predictor: TilePredictor, samples: Sequence[Sample], side: int | None = None
) -> tuple[list[ImageCells], list[Spots | None]]:
    """Predict labelled images in one piece each; returns true and predicted cells of each piece, and its spots.

    Args:
        predictor: a network, returning cells down to a low score.
        samples: images at the network's mpp.
        side: cut them into squares of so many px, for networks that measure in fractions of an image; None: whole.
    """
    images, spots = [], []
    for sample in samples:
        for piece in [sample] if side is None else pieces(sample, side):
            images.append(image_cells(piece, predictor.predict_tiles([piece.image])[0], predictor.types))
            spots.append(piece.spots)
    return images, spots


def validate(
    predictor: TilePredictor, samples: Sequence[Sample], side: int | None = None, threshold: float | None = None
) -> tuple[float, Numbers]:
    """Detection and type F1 on validation images, at a threshold, which is returned first; None: that suits them best.

    Numbers are by ``PROTOCOL``, except for those that end in ``_standard``. Other arguments as of ``predict_images``.
    """
    images, spots = predict_images(predictor, samples, side)
    if threshold is None:
        # A network at its start detects nothing: no threshold is better than another, and the run must go on.
        anything = any(len(image.pred_scores) for image in images)
        threshold = best_threshold(images, THRESHOLD_PROTOCOLS).threshold if anything else LOWEST_SCORE
    report = score_images(images, predictor.types, PROTOCOL, threshold=threshold, resamples=0)
    standard = score_images(images, predictor.types, "standard", threshold=threshold, resamples=0)
    numbers = {
        "f1_detection": report.totals.detection.f1,
        "f1_type_mean": report.totals.mean_f1,
        "f1_detection_standard": standard.totals.detection.f1,
        "f1_type_mean_standard": standard.totals.mean_f1,
    }
    above = [image.above(threshold) for image in images]
    return threshold, _by_type(predictor.types, report) | numbers | _common(report, threshold, above, spots)


def validate_labelled(
    predictor: TilePredictor, samples: Sequence[Sample], threshold: float, side: int | None = None
) -> Numbers:
    """Scores where only some nuclei are labelled: predictions elsewhere are neither right nor wrong.

    ``found`` is the share of the labelled nuclei with a cell within 3 um; F1 of the types counts labelled nuclei with
    the right type, with a wrong one, and not detected. ``threshold`` is of objectness; otherwise as ``predict_images``.
    """
    images, spots = predict_images(predictor, samples, side)
    above = [image.above(threshold) for image in images]
    labelled = [image.keep(pair_image(image, find_protocol(PROTOCOL)).pred_idx) for image in above]
    report = score_images(labelled, predictor.types, PROTOCOL, threshold=threshold, resamples=0)
    numbers: Numbers = {"found": report.totals.detection.recall, "f1_type_mean": report.totals.mean_f1}
    return _by_type(predictor.types, report) | numbers | _common(report, threshold, labelled, spots)


def _by_type(types: Sequence[str], report: Report) -> Numbers:
    """F1 of each type. Other numbers come after: a type may be called ``detection``."""
    return {f"f1_{name}": counts.f1 for name, counts in zip(types, report.totals.types, strict=True)}


def _common(report: Report, threshold: float, images: Sequence[ImageCells], spots: Sequence[Spots | None]) -> Numbers:
    numbers: Numbers = {"threshold": threshold, "median_iou": report.median_iou}
    if report.median_mask_iou is not None:
        numbers["median_mask_iou"] = report.median_mask_iou
    agreement = composition_agreement(images, spots)
    return numbers if agreement is None else numbers | {"composition_agreement": agreement}


def composition_agreement(images: Sequence[ImageCells], spots: Sequence[Spots | None]) -> float | None:
    """1 - total variation distance between the compositions of spots and of the types predicted in them.

    The mean over the spots of images that have a detected nucleus; None without one. Predictions are above a threshold.
    """
    values = []
    for image, each in zip(images, spots, strict=True):
        if each is None:
            continue
        pairs = pair_image(image, find_protocol(PROTOCOL))
        spot, kind = each.of[pairs.true_idx], image.pred_types[pairs.pred_idx]
        table = np.zeros(each.compositions.shape)
        np.add.at(table, (spot[spot >= 0], kind[spot >= 0]), 1)
        count = table.sum(axis=1)
        filled = count > 0
        distance = np.abs(table[filled] / count[filled, None] - each.compositions[filled]).sum(axis=1) / 2
        values += (1 - distance).tolist()
    return float(np.mean(values)) if values else None
