"""The result of an evaluation: every number with what is needed to read it, as a frozen object and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from celldetr.evaluation.bootstrap import Interval
from celldetr.evaluation.curve import ScoreCurve
from celldetr.evaluation.metrics import DetectionCounts, Totals, TypeCounts
from celldetr.evaluation.protocols import Protocol
from celldetr.files import replacing

FORMAT = 1  # of the JSON; changes when a key changes its meaning


@dataclass(frozen=True)
class ImageRow:
    """Detection in one image, micrometres per pixel included, for the per-image table."""

    name: str
    group: str
    mpp: float
    n_true: int
    n_predicted: int
    counts: DetectionCounts


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
        median_iou: of the boxes of pairs, over pairs whose true box is not empty; None without any. Where a data set
            has points, its boxes were derived from the image, and this is agreement with that derivation.
        median_distance_um: of the centres of pairs.
        intervals: 95 % bootstrap intervals under the names of ``metrics``.
        interval_unit: what was resampled: "group" or "image"; ``n_units`` of them.
        images: one row an image.
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
    median_iou: float | None
    median_distance_um: float | None
    intervals: dict[str, Interval | None]
    interval_unit: str
    n_units: int
    images: tuple[ImageRow, ...]

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

    @property
    def metrics(self) -> dict[str, float | None]:
        """All headline numbers under flat names, e.g. ``types.lymphocyte.f1``."""
        return headline(self.totals, self.type_names)

    def summary(self) -> dict[str, Any]:
        """The numbers of the split, without images, curve and intervals; JSON-able, as a model card keeps them."""
        detection = self.totals.detection
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
                }
                for name, counts, alone in zip(self.type_names, self.totals.types, self.totals.classwise, strict=True)
            },
            "average_precision": self.curve.average_precision,
            "median_iou": self.median_iou,
            "median_distance_um": self.median_distance_um,
        }

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
            "images": [
                {
                    "name": row.name,
                    "group": row.group,
                    "mpp": row.mpp,
                    "n_true": row.n_true,
                    "n_predicted": row.n_predicted,
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
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
