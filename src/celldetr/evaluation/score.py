"""Score predicted cells against true ones: every metric of a split at one threshold, as a ``Report`` a protocol.

The threshold is an argument: choosing one is ``threshold.best_threshold``, on validation images. No network is needed
here: the cells are predicted before (``image_cells``), and scored under another protocol without predicting them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from celldetr.data.sample import UNKNOWN
from celldetr.errors import InputError
from celldetr.evaluation.bootstrap import Interval, bootstrap, units_of
from celldetr.evaluation.box_ap import box_ap
from celldetr.evaluation.calibration import calibration
from celldetr.evaluation.curve import score_curve
from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.metrics import Totals, add_totals, box_iou, confusion, count_image
from celldetr.evaluation.panoptic import MaskTotals, score_masks
from celldetr.evaluation.protocols import PairedTypes, Protocol, find_protocol
from celldetr.evaluation.report import ImageRow, Report, headline


def score_images(
    images: Sequence[ImageCells],
    type_names: Sequence[str],
    protocol: str | Protocol = "standard",
    *,
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
) -> Report:
    """Score the predictions on a split.

    Args:
        images: with all predictions, down to a low score; those below ``threshold`` make up the curves alone.
        type_names: the model's K types, in the order of its probabilities.
        protocol: a name of ``protocols.PROTOCOLS``, or one of your own.
        threshold: least objectness of a prediction that counts, in [0, 1], chosen on validation images.
        resamples, seed: of the 95 % bootstrap intervals; 0 resamples for none.

    Raises:
        InputError: unknown protocol, threshold outside [0, 1], or no images.
    """
    return score_under([protocol], images, type_names, threshold=threshold, resamples=resamples, seed=seed)[0]


def score_under(
    protocols: Sequence[str | Protocol],
    images: Sequence[ImageCells],
    type_names: Sequence[str],
    *,
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Report]:
    """``score_images`` under several protocols; what does not depend on the rules of pairing is computed once."""
    rules = [find_protocol(protocol) for protocol in protocols]
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} is not an objectness; give a number from 0 to 1")
    if not images:
        raise InputError("no images to evaluate; check the data set's card and the name of the split")
    names = tuple(type_names)
    derived = any(image.derived_boxes for image in images)
    ap = None if derived else box_ap(images, len(names))
    curves = {rule.radius_um: score_curve(images, rule.radius_um) for rule in rules}
    calibrations = {radius: calibration(images, radius) for radius in curves}
    above = [image.above(threshold) for image in images]
    units = units_of([image.group for image in images])
    masks = score_masks(above, len(names))
    of_masks: Sequence[MaskTotals | None] = masks.images if masks else [None] * len(images)
    mask_intervals: dict[str, Interval | None] = {}
    if masks:
        none, metrics_of_masks = MaskTotals.none(len(names)), partial(MaskTotals.headline, type_names=names)
        rows = [each or none for each in of_masks]
        mask_intervals = bootstrap(rows, units, metrics_of_masks, resamples=resamples, seed=seed)
    reports = []
    for rule in rules:
        counting = [rule.prepare(image) for image in above]
        counts, pairs = zip(*(count_image(image, rule, len(names)) for image in counting), strict=True)
        ious, distances, mask_ious = _pair_quality(counting, pairs)
        metrics = partial(headline, type_names=names)
        reports.append(
            Report(
                protocol=rule,
                threshold=float(threshold),
                type_names=names,
                totals=add_totals(counts),
                n_unknown=sum(int(np.sum(image.true_types == UNKNOWN)) for image in images),
                n_added=(sum(pair.added[0] for pair in pairs), sum(pair.added[1] for pair in pairs)),
                confusion=tuple(map(tuple, np.sum([confusion(pair, len(names)) for pair in pairs], axis=0).tolist())),
                curve=curves[rule.radius_um],
                calibration=calibrations[rule.radius_um],
                derived_boxes=derived,
                box_ap=ap,
                median_iou=float(np.median(ious)) if len(ious) else None,
                mean_iou=float(np.mean(ious)) if len(ious) else None,
                median_distance_um=float(np.median(distances)) if len(distances) else None,
                intervals=bootstrap(counts, units, metrics, resamples=resamples, seed=seed) | mask_intervals,
                # Readers name the group of an image of which nothing else is known after the image.
                interval_unit="group" if any(i.group not in ("", i.name) for i in images) else "image",
                n_units=max(units) + 1,
                images=tuple(map(_image_row, counting, counts, of_masks)),
                masks=masks,
                median_mask_iou=float(np.median(mask_ious)) if len(mask_ious) else None,
            )
        )
    return reports


def _image_row(image: ImageCells, counts: Totals, masks: MaskTotals | None) -> ImageRow:
    n_true, n_predicted = len(image.true_xy), len(image.pred_xy)
    return ImageRow(image.name, image.group, image.tissue, image.mpp, n_true, n_predicted, image.digest, counts, masks)


def _pair_quality(
    images: Sequence[ImageCells], pairs: Sequence[PairedTypes]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of the pairs of real cells: IoU of boxes, distance of centres in micrometres; IoU of masks where there are."""
    ious, distances, mask_ious = [np.empty(0)], [np.empty(0)], [np.empty(0)]
    for image, pair in zip(images, pairs, strict=True):
        if any(pair.added):  # one side holds no real cell, so no pair is real
            continue
        i, j = pair.pred_idx, pair.true_idx
        iou = box_iou(image.pred_boxes[i], image.true_boxes[j])
        ious.append(iou[np.isfinite(iou)])
        distances.append(np.linalg.norm(image.pred_xy[i] - image.true_xy[j], axis=1) * image.mpp)
        if image.overlap is not None:
            mask_ious.append(image.overlap.iou_of(i, j))
    return np.concatenate(ious), np.concatenate(distances), np.concatenate(mask_ious)
