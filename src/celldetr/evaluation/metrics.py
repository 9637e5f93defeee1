"""Counts and the numbers made of them. Pure NumPy; counts are added over a split before anything is divided.

Three families (docs/concepts/evaluation.md):

- detection: pairs, whatever their types;
- types, ``f1``, after HoVer-Net: the same pairs; one of two types is charged to both with weight 2;
- types, ``f1_classwise``, as point-based papers (MCSpatNet, DeNuC): each class is paired on its own, greedily by score.

A number without any cell behind it is ``None`` (JSON null).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from celldetr.data.sample import UNKNOWN
from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.pairing import pair_cells
from celldetr.evaluation.protocols import BACKGROUND, PairedTypes, Protocol, pair_image

Ints = NDArray[np.int64]


def ratio(part: float, whole: float) -> float | None:
    """``part / whole``, or None where there is nothing to divide by."""
    return float(part / whole) if whole else None


@dataclass(frozen=True)
class Counts:
    """Counts that add up over images: numbers, other counts, and tuples of them."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(_add(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


def _add(a: Any, b: Any) -> Any:
    return tuple(_add(x, y) for x, y in zip(a, b, strict=True)) if isinstance(a, tuple) else a + b


@dataclass(frozen=True)
class DetectionCounts(Counts):
    """Pairs (``tp``), predictions without a true cell (``fp``), true cells without a prediction (``fn``)."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    @property
    def precision(self) -> float | None:
        """TP / (TP + FP)."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """TP / (TP + FN)."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN)."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


@dataclass(frozen=True)
class TypeCounts(Counts):
    """What happened to type c.

    Attributes:
        tp: pairs, true c and predicted c.
        fp: pairs, predicted c, true another known type.
        fn: pairs, true c, predicted another type.
        fp_detection: predictions of type c without a true cell.
        fn_detection: true cells of type c without a prediction.

    Pairs whose true type is unknown are in none of these.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    fp_detection: int = 0
    fn_detection: int = 0

    @property
    def precision(self) -> float | None:
        """TP / (TP + 2 FP + FP_d), as published with this F1, which is its harmonic mean with recall."""
        return ratio(self.tp, self.tp + 2 * self.fp + self.fp_detection)

    @property
    def recall(self) -> float | None:
        """TP / (TP + 2 FN + FN_d)."""
        return ratio(self.tp, self.tp + 2 * self.fn + self.fn_detection)

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + 2 FP + 2 FN + FP_d + FN_d)."""
        errors = 2 * self.fp + 2 * self.fn + self.fp_detection + self.fn_detection
        return ratio(2 * self.tp, 2 * self.tp + errors)


@dataclass(frozen=True)
class Totals(Counts):
    """All counts of one image, or of any number of them: the K types and the K classes paired on their own in order."""

    detection: DetectionCounts
    types: tuple[TypeCounts, ...]
    classwise: tuple[DetectionCounts, ...]

    @classmethod
    def none(cls, n_types: int) -> Totals:
        """Of no image."""
        return cls(DetectionCounts(), (TypeCounts(),) * n_types, (DetectionCounts(),) * n_types)

    @property
    def mean_f1(self) -> float | None:
        """Mean of the types' F1 over the types that a true cell has: a set need not have all types of a model."""
        return mean_defined([each.f1 for each in self.types if each.recall is not None])

    @property
    def mean_f1_classwise(self) -> float | None:
        """Mean of the class-wise F1 over the types that a true cell has."""
        return mean_defined([each.f1 for each in self.classwise if each.recall is not None])


def add_totals(counts: Sequence[Totals]) -> Totals:
    """The sum of the counts of one image or more."""
    return sum(counts[1:], counts[0])


def mean_defined(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None without any."""
    defined = [value for value in values if value is not None]
    return ratio(sum(defined), len(defined))


def count_image(cells: ImageCells, protocol: Protocol, n_types: int) -> tuple[Totals, PairedTypes]:
    """Pair and count one image, with the predictions above the threshold; class by class whatever the protocol."""
    pairs = pair_image(cells, protocol)
    classwise = count_classwise(cells, protocol.radius_px(cells.mpp), n_types)
    return Totals(count_detection(pairs), count_types(pairs, n_types), classwise), pairs


def count_detection(pairs: PairedTypes) -> DetectionCounts:
    """Detection counts of one image."""
    tp = len(pairs.pred_idx)
    return DetectionCounts(tp, len(pairs.pred_types) - tp, len(pairs.true_types) - tp)


def count_types(pairs: PairedTypes, n_types: int) -> tuple[TypeCounts, ...]:
    """Counts of each of ``n_types`` types in one image."""
    predicted, true = pairs.pred_types[pairs.pred_idx], pairs.true_types[pairs.true_idx]
    extra = np.delete(pairs.pred_types, pairs.pred_idx)
    missed = np.delete(pairs.true_types, pairs.true_idx)
    known = true != UNKNOWN
    return tuple(
        TypeCounts(
            tp=int(np.sum((predicted == c) & (true == c))),
            fp=int(np.sum((predicted == c) & (true != c) & known)),
            fn=int(np.sum((predicted != c) & (true == c))),
            fp_detection=int(np.sum(extra == c)),
            fn_detection=int(np.sum(missed == c)),
        )
        for c in range(n_types)
    )


def count_classwise(cells: ImageCells, radius: float, n_types: int) -> tuple[DetectionCounts, ...]:
    """Counts of each type paired on its own, by falling score, at most ``radius`` px apart, in one image.

    A prediction that is left over but pairs with a true cell of unknown type is not counted: it may well be right.
    """
    free = np.ones(len(cells.pred_xy), bool)
    counts = []
    for c in range(n_types):
        pred, true = np.flatnonzero(cells.pred_types == c), cells.true_types == c
        pred_idx, _ = pair_cells(
            cells.pred_xy[pred], cells.true_xy[true], radius, rule="greedy", scores=cells.pred_scores[pred]
        )
        free[pred[pred_idx]] = False
        counts.append(DetectionCounts(len(pred_idx), len(pred) - len(pred_idx), int(true.sum()) - len(pred_idx)))
    unknown = cells.true_types == UNKNOWN
    if unknown.any():
        rest = np.flatnonzero(free)
        excused, _ = pair_cells(
            cells.pred_xy[rest], cells.true_xy[unknown], radius, rule="greedy", scores=cells.pred_scores[rest]
        )
        spared = np.bincount(cells.pred_types[rest[excused]], minlength=n_types)
        counts = [DetectionCounts(n.tp, n.fp - int(spared[c]), n.fn) for c, n in enumerate(counts)]
    return tuple(counts)


def confusion(pairs: PairedTypes, n_types: int) -> Ints:
    """(K + 2, K + 1) cells of one image. Rows: true types, "type unknown", "no cell"; columns: predicted types, "not
    found"."""
    matrix = np.zeros((n_types + 2, n_types + 1), np.int64)
    # A background point is no cell: it stands where "no cell" and "not found" are.
    rows = np.where(pairs.true_types == UNKNOWN, n_types, pairs.true_types)
    rows = np.where(pairs.true_types == BACKGROUND, n_types + 1, rows)
    columns = np.where(pairs.pred_types == BACKGROUND, n_types, pairs.pred_types)
    np.add.at(matrix, (rows[pairs.true_idx], columns[pairs.pred_idx]), 1)
    np.add.at(matrix[:, n_types], np.delete(rows, pairs.true_idx), 1)
    np.add.at(matrix[n_types + 1], np.delete(columns, pairs.pred_idx), 1)
    return matrix


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of (N, 4) xyxy boxes, row by row; NaN where either box is empty or not finite."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    overlap = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    area_a, area_b = (np.clip(box[:, 2:] - box[:, :2], 0, None).prod(axis=1) for box in (a, b))
    union = np.where((area_a > 0) & (area_b > 0), area_a + area_b - overlap, np.nan)
    return overlap / union
