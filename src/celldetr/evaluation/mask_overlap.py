"""Pixels that predicted and true masks of an image share, as a sparse table: what every metric of masks is made of.

Predicted masks are outlines, or the ellipses in the boxes of a model without outlines, drawn at the resolution
of the truth. The pixels of several belong to the one with the highest score. So the table of all predictions holds the
table at any threshold: leaving out low scores gives no pixel to another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.assignment import Index
from celldetr.data.masks import Masks, draw
from celldetr.outlines import RADII, outline_points

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class MaskOverlap:
    """Areas of the M predicted and N true masks of an image in pixels, and of what they share.

    Attributes:
        pred_areas, true_areas: (M,) and (N,).
        pred_idx, true_idx: (E,) positions of the pairs that share a pixel.
        shared: (E,) how many they share.
    """

    pred_areas: Ints
    true_areas: Ints
    pred_idx: Index
    true_idx: Index
    shared: Ints

    @property
    def iou(self) -> NDArray[np.float64]:
        """(E,) intersection over union of the pairs."""
        union = self.pred_areas[self.pred_idx] + self.true_areas[self.true_idx] - self.shared
        return np.asarray(self.shared / union)

    def keep(self, which: NDArray[np.bool_] | NDArray[np.integer]) -> MaskOverlap:
        """The table of some of the predictions: a mask (M,), or positions."""
        places = np.full(len(self.pred_areas), -1)
        kept = np.arange(len(places))[which]
        places[kept] = np.arange(len(kept))
        pairs = places[self.pred_idx] >= 0
        return replace(
            self,
            pred_areas=self.pred_areas[kept],
            pred_idx=places[self.pred_idx[pairs]],
            true_idx=self.true_idx[pairs],
            shared=self.shared[pairs],
        )

    def iou_of(self, pred_idx: Index, true_idx: Index) -> NDArray[np.float64]:
        """(P,) IoU of pairs of a prediction and a true mask; 0 where they do not touch."""
        columns = len(self.true_areas) + 1
        codes = self.pred_idx * columns + self.true_idx  # rising
        wanted = pred_idx * columns + true_idx
        if not len(codes):
            return np.zeros(len(wanted))
        place = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
        return np.where(codes[place] == wanted, self.iou[place], 0.0)


def count_overlap(predicted: NDArray[np.integer], true: NDArray[np.integer], n_pred: int, n_true: int) -> MaskOverlap:
    """The table of two maps (H, W), 0 for background and i + 1 for mask i."""
    here = (predicted > 0) & (true > 0)
    codes, shared = np.unique((predicted[here].astype(np.int64) - 1) * n_true + true[here] - 1, return_counts=True)
    return MaskOverlap(
        pred_areas=np.bincount(predicted.ravel(), minlength=n_pred + 1)[1:],
        true_areas=np.bincount(true.ravel(), minlength=n_true + 1)[1:],
        pred_idx=codes // max(n_true, 1),
        true_idx=codes % max(n_true, 1),
        shared=shared,
    )


def predicted_overlap(
    boxes: Floats, radii: Floats | None, scores: Floats, true: NDArray[np.int32], n_true: int
) -> MaskOverlap:
    """The table of predictions.

    Args:
        boxes: (M, 4) xyxy in pixels of the truth.
        radii: (M, ``RADII``) outlines; None: ellipses.
        scores: (M,) the highest owns a pixel, of equals the first.
        true: (H, W) map of the N = ``n_true`` true masks.
    """
    points = outline_points(boxes, np.ones((len(boxes), RADII)) if radii is None else radii.astype(np.float64))
    return _drawn(points, np.lexsort((-np.arange(len(boxes)), scores)), true, n_true)


def ceiling_overlap(masks: Masks, boxes: Floats, true: NDArray[np.int32]) -> MaskOverlap:
    """The table of the truth drawn with ``RADII`` radii from its own boxes (N, 4): the best that outlines can do."""
    points = masks.outlines(boxes).astype(np.float64)
    small_last = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
    return _drawn(points, small_last, true, len(boxes))


def _drawn(points: NDArray[np.float64], order: Index, true: NDArray[np.int32], n_true: int) -> MaskOverlap:
    """The table of polygons (M, V, 2), drawn one over the other in this order."""
    areas = np.array([*shapely.polygons(points), None], dtype=np.object_)[:-1]  # not without None: none at all
    return count_overlap(draw(areas, order.tolist(), true.shape), true, len(points), n_true)
