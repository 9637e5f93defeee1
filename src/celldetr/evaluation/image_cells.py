"""Predicted and true cells of one image as arrays, and what their masks share: what every metric is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from celldetr.data.sample import Sample
from celldetr.data.sources import map_types
from celldetr.errors import InputError, near
from celldetr.evaluation.mask_overlap import MaskOverlap, ceiling_overlap, predicted_overlap
from celldetr.model.output import TileCells

LOWEST_SCORE = 0.05  # of predictions that are kept, for curves and the choice of a threshold

Predict = Callable[[NDArray[np.uint8], float], TileCells]
"""(H, W, 3) uint8 RGB image and its mpp -> its cells, boxes in pixels of that image: ``slide.array.array_cells``."""


@dataclass(frozen=True)
class ImageCells:
    """Predicted (M) and true (N) cells of one image, pixels of that image, x right, y down.

    Attributes:
        name, group, mpp, tissue, derived_boxes, digest: of the sample.
        pred_xy: (M, 2) centres of the predicted boxes.
        pred_boxes: (M, 4) xyxy.
        pred_scores: (M,) objectness.
        pred_types: (M,) int64, the most probable type.
        pred_type_scores: (M,) the probability of that type.
        true_xy: (N, 2) annotated centres.
        true_boxes: (N, 4) xyxy.
        true_types: (N,) int64, ``UNKNOWN`` (-1) where the type is not known.
        overlap: of predicted and true masks; None: not each nucleus has a mask.
        ceiling: of the truth drawn as outlines and the truth; there where ``overlap`` is.
        outlined: whether predicted masks are outlines, not ellipses.
    """

    name: str
    group: str
    mpp: float
    pred_xy: NDArray[np.float64]
    pred_boxes: NDArray[np.float64]
    pred_scores: NDArray[np.float64]
    pred_types: NDArray[np.int64]
    pred_type_scores: NDArray[np.float64]
    true_xy: NDArray[np.float64]
    true_boxes: NDArray[np.float64]
    true_types: NDArray[np.int64]
    tissue: str = ""
    derived_boxes: bool = False
    digest: str = ""
    overlap: MaskOverlap | None = None
    ceiling: MaskOverlap | None = None
    outlined: bool = False

    def above(self, threshold: float) -> ImageCells:
        """The same image with the predictions whose score is at least ``threshold``."""
        return self.keep(self.pred_scores >= threshold)

    def keep(self, which: NDArray[np.bool_] | NDArray[np.integer]) -> ImageCells:
        """The same image with some of the predictions: a mask (M,), or positions."""
        return replace(
            self,
            pred_xy=self.pred_xy[which],
            pred_boxes=self.pred_boxes[which],
            pred_scores=self.pred_scores[which],
            pred_types=self.pred_types[which],
            pred_type_scores=self.pred_type_scores[which],
            overlap=None if self.overlap is None else self.overlap.keep(which),
        )


def image_cells(sample: Sample, cells: TileCells, type_names: tuple[str, ...]) -> ImageCells:
    """Put a sample beside what was predicted on it.

    Args:
        sample: the labelled image.
        cells: predictions on ``sample.image``.
        type_names: the K types of the model, in the order of ``cells.probabilities``; true types become these by name.

    Raises:
        InputError: a type of the sample that the model does not have, other than K probabilities a cell, or an mpp that
            is not positive.
    """
    if not (np.isfinite(sample.mpp) and sample.mpp > 0):
        raise InputError(f"{sample.name}: mpp must be a positive number of micrometres per pixel, got {sample.mpp}")
    if cells.probabilities.shape[1:] != (len(type_names),):
        raise InputError(
            f"{sample.name}: predictions have probabilities of shape {cells.probabilities.shape}, "
            f"expected one for each of {len(type_names)} types ({', '.join(type_names)})"
        )
    boxes = np.asarray(cells.boxes, np.float64).reshape(-1, 4)
    overlap = ceiling = None
    if sample.masks is not None and sample.masks.complete:
        true = sample.masks.map(sample.image.shape)
        overlap = predicted_overlap(boxes, cells.radii, cells.scores, true, len(sample))
        ceiling = ceiling_overlap(sample.masks, sample.boxes, true)
    return ImageCells(
        name=sample.name,
        group=sample.group,
        mpp=float(sample.mpp),
        pred_xy=(boxes[:, :2] + boxes[:, 2:]) / 2,
        pred_boxes=boxes,
        pred_scores=np.asarray(cells.scores, np.float64),
        pred_types=np.argmax(cells.probabilities, axis=1).astype(np.int64),
        pred_type_scores=np.max(cells.probabilities, axis=1).astype(np.float64),
        true_xy=np.asarray(sample.points, np.float64),
        true_boxes=np.asarray(sample.boxes, np.float64),
        true_types=_translate(sample, type_names),
        tissue=sample.tissue,
        derived_boxes=sample.derived_boxes,
        digest=sample.digest,
        overlap=overlap,
        ceiling=ceiling,
        outlined=cells.radii is not None,
    )


def _translate(sample: Sample, type_names: tuple[str, ...]) -> NDArray[np.int64]:
    for name in sample.type_names:
        # Never unknown by default: that would take the cells out of the type counts.
        if name not in type_names:
            raise InputError(
                f"{sample.name}: type {name!r} is not a type of the model; {near(name, type_names)} "
                "Map it to one of these, or to '' for a cell of unknown type"
            )
    return map_types([sample], type_names, None)[0].types


def predict_samples(predict: Predict, samples: Iterable[Sample], type_names: tuple[str, ...]) -> Iterator[ImageCells]:
    """Run a model over labelled images, one at a time; ``predict`` returns cells down to a low score."""
    for sample in samples:
        yield image_cells(sample, predict(sample.image, sample.mpp), type_names)
