"""The result of an evaluation: every number with what is needed to read it, as a frozen object and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from celldetr.evaluation.bootstrap import Interval
from celldetr.evaluation.box_ap import BoxAP
from celldetr.evaluation.calibration import Calibration
from celldetr.evaluation.curve import ScoreCurve
from celldetr.evaluation.metrics import DetectionCounts, Totals, TypeCounts
from celldetr.evaluation.protocols import Protocol
from celldetr.io.files import replacing

FORMAT = 1  # of the JSON; changes when a key changes its meaning


@dataclass(frozen=True)
class ImageRow:
    """Detection in one image, micrometres per pixel and digest of its pixels included, for the per-image table."""

    name: str
    group: str
    tissue: str
    mpp: float
    n_true: int
    n_predicted: int
    counts: DetectionCounts
    digest: str


@dataclass(frozen=True)
class TissueRow:
    """The images of one tissue, counted as the split is; ``n_cells`` and ``n_predicted`` are real ones only."""

    tissue: str
    n_images: int
    n_cells: int
    n_predicted: int
    totals: Totals

    def to_json(self, type_names: Sequence[str]) -> dict[str, Any]:
        """The row's numbers, JSON-able."""
        return {
            "n_images": self.n_images,
            "n_cells": self.n_cells,
            "n_predicted": self.n_predicted,
            "detection": _with_scores(self.totals.detection),
            "mean_type_f1": self.totals.mean_f1,
            "mean_type_f1_classwise": self.totals.mean_f1_classwise,
            "types": {
                name: {**_with_scores(counts), "f1_classwise": alone.f1}
                for name, counts, alone in zip(type_names, self.totals.types, self.totals.classwise, strict=True)
            },
        }


@dataclass(frozen=True)
class Report:
    """How well a split was predicted.

    Attributes:
        protocol: the rules.
        threshold: least objectness of a prediction that counts.
        type_names: the K types.
        totals: counts over the split, points added by the protocol included.
        n_cells: true cells, ``n_unknown`` of them of unknown type; ``n_predicted`` predictions above the threshold.
            Real ones only.
        n_added: predicted and true points that the protocol put into empty images.
        confusion: (K + 2) x (K + 1), see ``metrics.confusion``.
        curve: detection over all thresholds.
        calibration: of objectness and of the most probable type, over all predictions.
        derived_boxes: whether true boxes were derived from annotated points.
        box_ap: AP of boxes at IoU .5 over all predictions; None where boxes were derived.
        median_iou, mean_iou: of the boxes of pairs, over pairs whose true box is not empty; None without any. Where
            boxes were derived, this is agreement with that derivation.
        median_distance_um: of the centres of pairs.
        intervals: 95 % bootstrap intervals under the names of ``headline``.
        interval_unit: what was resampled: "group" or "image"; ``n_units`` of them.
        images: one row an image.
        tissues: one row a tissue, by name, images of no named tissue under ""; empty where none is named.
    """

    protocol: Protocol
    threshold: float
    type_names: tuple[str, ...]
    totals: Totals
    n_cells: int
    n_unknown: int
    n_predicted: int
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
    tissues: tuple[TissueRow, ...]

    @property
    def n_images(self) -> int:
        """Images evaluated, those without cells included."""
        return len(self.images)

    @property
    def detection_f1(self) -> float | None:
        """F1 of detection over the split."""
        return self.totals.detection.f1

    @property
    def mean_type_f1(self) -> float | None:
        """Mean of the types' F1."""
        return self.totals.mean_f1

    def summary(self) -> dict[str, Any]:
        """The numbers of the split, without images, curve and intervals; JSON-able, as a model card keeps them."""
        detection = self.totals.detection
        ap = self.box_ap.types if self.box_ap else (None,) * len(self.type_names)
        kinds = zip(self.type_names, self.totals.types, self.totals.classwise, ap, strict=True)
        return {
            "protocol": self.protocol.name,
            "radius_um": self.protocol.radius_um,
            "threshold": self.threshold,
            "n_images": self.n_images,
            "n_cells": self.n_cells,
            "n_cells_of_unknown_type": self.n_unknown,
            "n_predicted": self.n_predicted,
            "detection": _with_scores(detection),
            "mean_type_f1": self.totals.mean_f1,
            "mean_type_f1_classwise": self.totals.mean_f1_classwise,
            "types": {
                name: {
                    **_with_scores(counts),
                    "f1_classwise": alone.f1,
                    "classwise": _with_scores(alone),
                    "box_ap50": type_ap,
                }
                for name, counts, alone, type_ap in kinds
            },
            "average_precision": self.curve.average_precision,
            "boxes": "derived from points" if self.derived_boxes else "annotated",
            "box_ap50": self.box_ap.detection if self.box_ap else None,
            "mean_type_box_ap50": self.box_ap.mean if self.box_ap else None,
            "median_iou": self.median_iou,
            "mean_iou": self.mean_iou,
            "median_distance_um": self.median_distance_um,
            "calibration_error": {
                "objectness": self.calibration.objectness.error,
                "types": self.calibration.types.error,
            },
        }

    def tissue_table(self) -> dict[str, Any]:
        """Under each tissue its numbers; JSON-able."""
        return {row.tissue: row.to_json(self.type_names) for row in self.tissues}

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able; undefined numbers are None."""
        return {
            "format": FORMAT,
            **self.summary(),
            "protocol_definition": asdict(self.protocol),
            "points_added_to_empty_images": {"predicted": self.n_added[0], "true": self.n_added[1]},
            "confusion": {
                "rows_true": [*self.type_names, "type unknown", "no cell"],
                "columns_predicted": [*self.type_names, "not found"],
                "counts": [list(row) for row in self.confusion],
            },
            "intervals_95": {
                "resampled": self.interval_unit,
                "n_units": self.n_units,
                "metrics": {name: list(bounds) if bounds else None for name, bounds in self.intervals.items()},
            },
            "curve": asdict(self.curve),
            "calibration": asdict(self.calibration),
            "tissues": self.tissue_table(),
            "images": [
                {
                    "name": row.name,
                    "group": row.group,
                    "tissue": row.tissue,
                    "mpp": row.mpp,
                    "n_true": row.n_true,
                    "n_predicted": row.n_predicted,
                    "digest": row.digest,
                    **_with_scores(row.counts),
                }
                for row in self.images
            ],
        }


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


def _with_scores(counts: DetectionCounts | TypeCounts) -> dict[str, Any]:
    return {**asdict(counts), "precision": counts.precision, "recall": counts.recall, "f1": counts.f1}


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
        others: reports of the same split under other protocols; their summaries and tables of tissues go under
            ``protocols``.
        context: JSON-able facts about the run under ``context``: model and its hash, data set, split, versions.

    Raises:
        InputError: the file cannot be written.
    """
    content = report.to_json()
    if others:
        content["protocols"] = {
            other.protocol.name: {**other.summary(), "tissues": other.tissue_table()} for other in others
        }
    if context:
        content["context"] = dict(context)
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
