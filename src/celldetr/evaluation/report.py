"""The scores of a split: every number with what is needed to read it, as a frozen object and as ``metrics.json``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from celldetr.evaluation.bootstrap import Interval
from celldetr.evaluation.box_ap import BoxAP
from celldetr.evaluation.calibration import Calibration
from celldetr.evaluation.curve import ScoreCurve
from celldetr.evaluation.metrics import DetectionCounts, Totals, TypeCounts, add_totals
from celldetr.evaluation.panoptic import MaskScores, MaskTotals
from celldetr.evaluation.protocols import Protocol
from celldetr.io.files import write_json

FORMAT = 1  # of the JSON; changes when a key changes its meaning


@dataclass(frozen=True)
class ImageRow:
    """One image and its counts; ``n_true`` and ``n_predicted`` are real ones only."""

    name: str
    group: str
    tissue: str
    mpp: float
    n_true: int
    n_predicted: int
    digest: str
    totals: Totals
    masks: MaskTotals | None = None


@dataclass(frozen=True)
class TissueRow:
    """The images of one tissue, counted as the split is; ``n_cells`` and ``n_predicted`` are real ones only."""

    tissue: str
    n_images: int
    n_cells: int
    n_predicted: int
    totals: Totals
    masks: MaskTotals | None = None


@dataclass(frozen=True)
class Report:
    """How well a split was predicted.

    Attributes:
        protocol: the rules.
        threshold: least objectness of a prediction that counts.
        type_names: the K types.
        totals: counts over the split, points added by the protocol included.
        n_unknown: true cells of unknown type.
        n_added: predicted and true points that the protocol put into empty images.
        confusion: (K + 2) x (K + 1), see ``metrics.confusion``.
        curve: detection over all thresholds.
        calibration: of objectness and of the most probable type, over all predictions.
        derived_boxes: whether true boxes were derived from annotated points.
        box_ap: AP of boxes at IoU .5 over all predictions; None where boxes were derived.
        median_iou, mean_iou: of the boxes of pairs whose true box is not empty; None without any. Where boxes were
            derived, this is agreement with that derivation.
        median_distance_um: of the centres of pairs.
        intervals: 95 % bootstrap intervals under the names of ``headline``.
        interval_unit: what was resampled: "group" or "image"; ``n_units`` of them.
        images: one row an image, those without cells included.
        masks: scores of masks, whatever the protocol; None where no image has masks.
        median_mask_iou: of the masks of pairs.
    """

    protocol: Protocol
    threshold: float
    type_names: tuple[str, ...]
    totals: Totals
    n_unknown: int
    n_added: tuple[int, int]
    confusion: tuple[tuple[int, ...], ...]
    curve: ScoreCurve
    calibration: Calibration
    derived_boxes: bool
    box_ap: BoxAP | None
    median_iou: float | None
    mean_iou: float | None
    median_distance_um: float | None
    intervals: dict[str, Interval | None]
    interval_unit: str
    n_units: int
    images: tuple[ImageRow, ...]
    masks: MaskScores | None = None
    median_mask_iou: float | None = None

    @property
    def n_images(self) -> int:
        """Images evaluated."""
        return len(self.images)

    @property
    def n_cells(self) -> int:
        """True cells."""
        return sum(row.n_true for row in self.images)

    @property
    def n_predicted(self) -> int:
        """Predictions above the threshold."""
        return sum(row.n_predicted for row in self.images)

    @property
    def tissues(self) -> tuple[TissueRow, ...]:
        """One row a tissue, by name, images of no named tissue under ""; empty where none is named."""
        names = sorted({row.tissue for row in self.images})
        return tuple(self._tissue(name) for name in names) if any(names) else ()

    def _tissue(self, name: str) -> TissueRow:
        rows = [row for row in self.images if row.tissue == name]
        n_cells, n_predicted = sum(row.n_true for row in rows), sum(row.n_predicted for row in rows)
        masked = [row.masks for row in rows if row.masks is not None]
        masks = sum(masked, MaskTotals.none(len(self.type_names))) if masked else None
        return TissueRow(name, len(rows), n_cells, n_predicted, add_totals([row.totals for row in rows]), masks)

    def summary(self) -> dict[str, Any]:
        """The numbers of the split and of its tissues, without images, curve and intervals; JSON-able."""
        scores = _scores(self.totals, self.type_names)
        for k, name in enumerate(self.type_names):
            scores["types"][name]["box_ap50"] = self.box_ap.types[k] if self.box_ap else None
        return {
            "protocol": self.protocol.name,
            "radius_um": self.protocol.radius_um,
            "threshold": self.threshold,
            "n_images": self.n_images,
            "n_cells": self.n_cells,
            "n_cells_of_unknown_type": self.n_unknown,
            "n_predicted": self.n_predicted,
            **scores,
            "average_precision": self.curve.average_precision,
            "boxes": "derived from points" if self.derived_boxes else "annotated",
            "box_ap50": self.box_ap.detection if self.box_ap else None,
            "mean_type_box_ap50": self.box_ap.mean if self.box_ap else None,
            "median_iou": self.median_iou,
            "mean_iou": self.mean_iou,
            "median_distance_um": self.median_distance_um,
            "median_mask_iou": self.median_mask_iou,
            "calibration_error": {
                "objectness": self.calibration.objectness.error,
                "types": self.calibration.types.error,
            },
            "tissues": {
                row.tissue: {
                    "n_images": row.n_images,
                    "n_cells": row.n_cells,
                    "n_predicted": row.n_predicted,
                    **_scores(row.totals, self.type_names),
                    "masks": _of_masks(row.masks),
                }
                for row in self.tissues
            },
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able; undefined numbers are None."""
        images = []
        for row in self.images:
            facts = {name: value for name, value in vars(row).items() if name not in ("totals", "masks")}
            images.append({**facts, **_with_f1(row.totals.detection), "masks": _of_masks(row.masks)})
        return {
            "format": FORMAT,
            **self.summary(),
            "masks": self.masks.summary(self.type_names) if self.masks else None,
            "protocol_definition": asdict(self.protocol),
            "points_added_to_empty_images": {"predicted": self.n_added[0], "true": self.n_added[1]},
            "confusion": {
                "rows_true": [*self.type_names, "type unknown", "no cell"],
                "columns_predicted": [*self.type_names, "not found"],
                "counts": self.confusion,
            },
            "intervals_95": {"resampled": self.interval_unit, "n_units": self.n_units, "metrics": self.intervals},
            "curve": asdict(self.curve),
            "calibration": asdict(self.calibration),
            "images": images,
        }


def _scores(totals: Totals, type_names: Sequence[str]) -> dict[str, Any]:
    """Counts of detection and of each type with precision, recall and F1, and the means over types."""
    types = {}
    for name, counts, alone in zip(type_names, totals.types, totals.classwise, strict=True):
        types[name] = {**_with_f1(counts), "f1_classwise": alone.f1, "classwise": _with_f1(alone)}
    return {
        "detection": _with_f1(totals.detection),
        "mean_type_f1": totals.mean_f1,
        "mean_type_f1_classwise": totals.mean_f1_classwise,
        "types": types,
    }


def _of_masks(totals: MaskTotals | None) -> dict[str, float | None] | None:
    """Means over images."""
    return None if totals is None else {name: mean.value for name, mean in totals.image_means().items()}


def _with_f1(counts: DetectionCounts | TypeCounts) -> dict[str, Any]:
    return {**asdict(counts), "precision": counts.precision, "recall": counts.recall, "f1": counts.f1}


def headline(totals: Totals, type_names: Sequence[str]) -> dict[str, float | None]:
    """The numbers that are quoted, under flat names."""
    out = {
        "detection.f1": totals.detection.f1,
        "detection.precision": totals.detection.precision,
        "detection.recall": totals.detection.recall,
        "mean_type_f1": totals.mean_f1,
        "mean_type_f1_classwise": totals.mean_f1_classwise,
    }
    for name, counts, alone in zip(type_names, totals.types, totals.classwise, strict=True):
        out[f"types.{name}.f1"] = counts.f1
        out[f"types.{name}.f1_classwise"] = alone.f1
    return out


def write_metrics(
    report: Report,
    path: str | os.PathLike[str],
    *,
    others: Sequence[Report] = (),
    context: Mapping[str, Any] | None = None,
) -> None:
    """Write a report as JSON, whole or not at all.

    Args:
        report: the main one; all of it is written.
        path: the file; replaced if it exists.
        others: reports of the same split under other protocols; their summaries go under ``protocols``.
        context: JSON-able facts about the run under ``context``: model and its hash, data set, split, versions.

    Raises:
        InputError: the file cannot be written.
    """
    content = report.to_json()
    if others:
        content["protocols"] = {other.protocol.name: other.summary() for other in others}
    if context:
        content["context"] = dict(context)
    write_json(Path(path), content)
