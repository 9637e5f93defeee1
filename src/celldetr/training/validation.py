"""Validation during training: the threshold that suits a network, and what it reaches there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from celldetr.data.sample import Sample
from celldetr.evaluation.image_cells import ImageCells, predict_samples
from celldetr.evaluation.protocols import find_protocol, pair_image
from celldetr.evaluation.report import Report
from celldetr.evaluation.score import score_images
from celldetr.evaluation.threshold import THRESHOLD_PROTOCOLS, best_threshold
from celldetr.model.inference import TilePredictor
from celldetr.model.output import TileCells

LOWEST_SCORE = 0.05  # predictions below are never counted, whatever the threshold
PROTOCOL = "within-radius"  # of the choice among checkpoints: under ``standard`` F1 is noisier


def whole_image(predictor: TilePredictor) -> Callable[[NDArray[np.uint8], float], TileCells]:
    """Predict labelled images in one piece each; they are at the model's mpp already."""

    def predict(image: NDArray[np.uint8], mpp: float) -> TileCells:
        return predictor.predict_tiles([image])[0]

    return predict


def validate(predictor: TilePredictor, samples: Sequence[Sample]) -> tuple[float, dict[str, float | None]]:
    """Detection and type F1 on validation images, at the threshold that suits them.

    Args:
        predictor: a network, returning cells down to a low score.
        samples: images at the network's mpp.

    Returns:
        the threshold, and numbers by name; those under ``PROTOCOL``, except for those that end in ``_standard``.
    """
    types = predictor.types
    images = list(predict_samples(whole_image(predictor), samples, types))
    # A network at its start finds nothing: no threshold is better than another, and the run must go on.
    found = any(len(image.pred_scores) for image in images)
    threshold = best_threshold(images, THRESHOLD_PROTOCOLS).threshold if found else LOWEST_SCORE
    report = score_images(images, types, PROTOCOL, threshold=threshold, resamples=0)
    standard = score_images(images, types, "standard", threshold=threshold, resamples=0)
    numbers: dict[str, float | None] = {
        "f1_detection": report.totals.detection.f1,
        "f1_type_mean": report.totals.mean_f1,
        "f1_detection_standard": standard.totals.detection.f1,
        "f1_type_mean_standard": standard.totals.mean_f1,
        "threshold": threshold,
        "median_iou": report.median_iou,
    }
    agreement = composition_agreement([image.above(threshold) for image in images], samples)
    if agreement is not None:
        numbers["composition_agreement"] = agreement
    return threshold, _by_type(types, report) | numbers


def validate_labelled(predictor: TilePredictor, samples: Sequence[Sample], threshold: float) -> dict[str, float | None]:
    """What validation can say where some nuclei are labelled and others are not: nothing of those that are not.

    What is found elsewhere is neither right nor wrong. F1 of a type counts the labelled nuclei that were found with the
    right or the wrong type, and those that were not found.

    Args:
        predictor: a network, returning cells down to ``threshold`` or lower.
        samples: images at the network's mpp.
        threshold: least objectness of a cell.

    Returns:
        numbers by name: ``found``, the share of the labelled nuclei with a cell within 3 um, and F1 of the types; where
        there are spots ``composition_agreement``.
    """
    types = predictor.types
    images = [_labelled(image, threshold) for image in predict_samples(whole_image(predictor), samples, types)]
    agreement = composition_agreement(images, samples)
    report = score_images(images, types, PROTOCOL, threshold=threshold, resamples=0)
    numbers: dict[str, float | None] = {
        "found": report.totals.detection.recall,
        "f1_type_mean": report.totals.mean_f1,
        "threshold": threshold,
        "median_iou": report.median_iou,
    }
    if agreement is not None:
        numbers["composition_agreement"] = agreement
    return _by_type(types, report) | numbers


def _by_type(types: Sequence[str], report: Report) -> dict[str, float | None]:
    """F1 of each type. Other numbers come after: a type may be called ``detection``."""
    return {f"f1_{name}": counts.f1 for name, counts in zip(types, report.totals.types, strict=True)}


def composition_agreement(images: Sequence[ImageCells], samples: Sequence[Sample]) -> float | None:
    """How alike the compositions of spots are to those of the types predicted in them; None without a spot.

    Args:
        images: predictions on the samples, above the threshold.
        samples: in the same order.

    Returns:
        1 - total variation distance, the mean over spots with a nucleus that was found; 1 is the same.
    """
    values = []
    for image, sample in zip(images, samples, strict=True):
        spots = sample.spots
        if spots is None:
            continue
        pairs = pair_image(image, find_protocol(PROTOCOL))
        spot, kind = spots.of[pairs.true_idx], image.pred_types[pairs.pred_idx]
        table = np.zeros(spots.compositions.shape)
        np.add.at(table, (spot[spot >= 0], kind[spot >= 0]), 1)
        found = table.sum(axis=1)
        there = found > 0
        distance = np.abs(table[there] / found[there, None] - spots.compositions[there]).sum(axis=1) / 2
        values += (1 - distance).tolist()
    return float(np.mean(values)) if values else None


def _labelled(image: ImageCells, threshold: float) -> ImageCells:
    """An image with those predictions only that are of a labelled nucleus."""
    image = image.above(threshold)
    return image.keep(pair_image(image, find_protocol(PROTOCOL)).pred_idx)
