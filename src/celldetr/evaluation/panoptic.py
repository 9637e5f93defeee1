"""Metrics of masks: panoptic quality, aggregated Jaccard index and Dice, from the pixels that masks share.

Sums that add up over images, as the counts of ``metrics``. docs/concepts/evaluation.md has the conventions.

- PQ, DQ, SQ: Kirillov et al., CVPR 2019; in an image, over nuclei: HoVer-Net, MedIA 2019
- bPQ, mPQ: PanNuke, arXiv 2003.10778
- AJI: Kumar et al., IEEE TMI 2017
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.data.sample import UNKNOWN
from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.mask_overlap import MaskOverlap
from celldetr.evaluation.metrics import Counts, mean_defined, ratio

IOU = 0.5  # of a pair; more than a half makes it the only one of both


@dataclass(frozen=True)
class PanopticCounts(Counts):
    """Pairs of an IoU above .5 (``tp``) with the sum of their IoU, predictions (``fp``) and nuclei (``fn``) without."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    iou: float = 0.0

    @property
    def dq(self) -> float | None:
        """Detection quality: TP / (TP + FP / 2 + FN / 2)."""
        return ratio(self.tp, self.tp + (self.fp + self.fn) / 2)

    @property
    def sq(self) -> float | None:
        """Segmentation quality: mean IoU of the pairs."""
        return ratio(self.iou, self.tp)

    @property
    def pq(self) -> float | None:
        """Panoptic quality: DQ x SQ, 0 without pairs."""
        return ratio(self.iou, self.tp + (self.fp + self.fn) / 2)


@dataclass(frozen=True)
class ImageMean(Counts):
    """A number of images that have one, and its sum over these."""

    images: int = 0
    total: float = 0.0

    @property
    def value(self) -> float | None:
        """The mean."""
        return ratio(self.total, self.images)


@dataclass(frozen=True)
class MaskTotals(Counts):
    """What the masks of one image come to, or of any number of them.

    Attributes:
        nuclei: whatever the types.
        types: of each of the K types.
        bpq, dq, sq, aji, dice: over images with a true nucleus.
        mpq: over images with a true nucleus of known type: the mean of PQ over the types that are there.
        type_pq: of each type, over images with a true nucleus of it.
    """

    nuclei: PanopticCounts
    types: tuple[PanopticCounts, ...]
    bpq: ImageMean
    dq: ImageMean
    sq: ImageMean
    mpq: ImageMean
    aji: ImageMean
    dice: ImageMean
    type_pq: tuple[ImageMean, ...]

    @classmethod
    def none(cls, n_types: int) -> MaskTotals:
        """Of no image."""
        none = ImageMean()
        types = (PanopticCounts(),) * n_types
        return cls(PanopticCounts(), types, none, none, none, none, none, none, (none,) * n_types)

    def scores(self, type_names: Sequence[str]) -> dict[str, Any]:
        """All numbers under the names of ``metrics.json``."""
        types = {}
        for name, counts, mean in zip(type_names, self.types, self.type_pq, strict=True):
            types[name] = {"pq": mean.value, "n_images": mean.images, "pooled": _pooled(counts)}
        pooled = mean_defined([counts.pq for counts in self.types if counts.tp + counts.fn])
        return {
            "n_images": self.bpq.images,
            **{name: mean.value for name, mean in self.image_means().items()},
            "pooled": {**_pooled(self.nuclei), "mean_type_pq": pooled},
            "types": types,
        }

    def image_means(self) -> dict[str, ImageMean]:
        """The means over images by name."""
        return {name: getattr(self, name) for name in ("bpq", "mpq", "dq", "sq", "aji", "dice")}

    def headline(self, type_names: Sequence[str]) -> dict[str, float | None]:
        """The numbers that have intervals, under flat names."""
        means = {f"masks.{name}": mean.value for name, mean in self.image_means().items()}
        types = {f"masks.types.{name}.pq": mean.value for name, mean in zip(type_names, self.type_pq, strict=True)}
        return means | types | {"masks.pooled.pq": self.nuclei.pq}


@dataclass(frozen=True)
class MaskScores:
    """Masks of a split.

    Attributes:
        drawn: what predicted masks are: "outlines", or the "ellipses" in the boxes of a model without outlines.
        images: what each image comes to; None where not each nucleus has a mask.
        totals: over the split.
        ceiling: of the truth drawn as outlines: what a perfect model would reach.
        ceiling_iou: median IoU of each nucleus with its own outline.
    """

    drawn: str
    images: tuple[MaskTotals | None, ...]
    totals: MaskTotals
    ceiling: MaskTotals
    ceiling_iou: float | None

    def summary(self, type_names: Sequence[str]) -> dict[str, Any]:
        """The entry ``masks`` of ``metrics.json``."""
        return {
            "drawn": self.drawn,
            **self.totals.scores(type_names),
            "ceiling": {**self.ceiling.scores(type_names), "median_iou": self.ceiling_iou},
        }


def score_masks(images: Sequence[ImageCells], n_types: int) -> MaskScores | None:
    """Score the predictions above a threshold; None where no image has masks."""
    totals, ceiling, own_iou = list[MaskTotals | None](), MaskTotals.none(n_types), [np.zeros(0)]
    for image in images:
        if image.overlap is None or image.ceiling is None:
            totals.append(None)
            continue
        totals.append(count_masks(image.overlap, image.pred_types, image.true_types, n_types))
        ceiling += count_masks(image.ceiling, image.true_types, image.true_types, n_types)
        nuclei = np.flatnonzero(image.ceiling.true_areas)
        own_iou.append(image.ceiling.iou_of(nuclei, nuclei))
    scored = [each for each in totals if each is not None]
    if not scored:
        return None
    drawn = "outlines" if any(image.outlined for image in images) else "ellipses"
    ious = np.concatenate(own_iou)
    ceiling_iou = float(np.median(ious)) if len(ious) else None
    return MaskScores(drawn, tuple(totals), sum(scored, MaskTotals.none(n_types)), ceiling, ceiling_iou)


def _pooled(counts: PanopticCounts) -> dict[str, float | None]:
    return {
        "tp": counts.tp,
        "fp": counts.fp,
        "fn": counts.fn,
        "dq": counts.dq,
        "sq": counts.sq,
        "pq": counts.pq,
    }


def count_masks(
    overlap: MaskOverlap, pred_types: NDArray[np.int64], true_types: NDArray[np.int64], n_types: int
) -> MaskTotals:
    """Count one image.

    Args:
        overlap: of its M predicted and N true masks; one without a pixel, because others own them, is none.
        pred_types, true_types: (M,) and (N,).
        n_types: K.
    """
    iou = overlap.iou
    paired = iou > IOU
    i, j, iou = overlap.pred_idx[paired], overlap.true_idx[paired], iou[paired]
    predicted, true = pred_types[i], true_types[j]
    pred_types, true_types = pred_types[overlap.pred_areas > 0], true_types[overlap.true_areas > 0]
    nuclei = PanopticCounts(len(i), len(pred_types) - len(i), len(true_types) - len(i), float(iou.sum()))
    types = []
    for c in range(n_types):
        both = (predicted == c) & (true == c)
        tp = int(both.sum())
        # A prediction on a nucleus of unknown type may well be right.
        excused = int(((predicted == c) & (true == UNKNOWN)).sum())
        fp, fn = int((pred_types == c).sum()) - tp - excused, int((true_types == c).sum()) - tp
        types.append(PanopticCounts(tp, fp, fn, float(iou[both].sum())))
    there = [int((true_types == c).sum()) > 0 for c in range(n_types)]
    type_pq = [_mean(counts.pq if here else None) for counts, here in zip(types, there, strict=True)]
    some = len(true_types) > 0
    return MaskTotals(
        nuclei=nuclei,
        types=tuple(types),
        bpq=_mean(nuclei.pq if some else None),
        dq=_mean(nuclei.dq if some else None),
        sq=_mean((nuclei.sq or 0.0) if some else None),  # 0 without pairs, as HoVer-Net has it
        mpq=_mean(mean_defined([mean.value for mean in type_pq])),
        aji=_mean(aggregated_jaccard(overlap) if some else None),
        dice=_mean(dice(overlap) if some else None),
        type_pq=tuple(type_pq),
    )


def _mean(value: float | None) -> ImageMean:
    return ImageMean() if value is None else ImageMean(1, value)


def aggregated_jaccard(overlap: MaskOverlap) -> float | None:
    """Shared pixels of each nucleus and the prediction of largest IoU, over their unions; None without a mask.

    As in Algorithm 1 of Kumar et al.: one prediction may serve several nuclei; pixels of nuclei that no prediction
    touches, and of predictions that serve none, are added to the unions. Of equal IoU the first prediction counts.
    """
    order = np.lexsort((overlap.pred_idx, -overlap.iou, overlap.true_idx))
    _, first = np.unique(overlap.true_idx[order], return_index=True)
    best = order[first]  # a pair for each nucleus that has one
    i, j, shared = overlap.pred_idx[best], overlap.true_idx[best], overlap.shared[best]
    union = int((overlap.pred_areas[i] + overlap.true_areas[j] - shared).sum())
    alone = np.delete(overlap.true_areas, j).sum() + np.delete(overlap.pred_areas, np.unique(i)).sum()
    return ratio(float(shared.sum()), float(union + alone))


def dice(overlap: MaskOverlap) -> float | None:
    """2 |A and B| / (|A| + |B|) of the pixels of all predictions, A, and of all nuclei, B; None without a pixel."""
    shared = float(overlap.shared.sum())
    return ratio(2 * shared, float(overlap.pred_areas.sum() + overlap.true_areas.sum()))
