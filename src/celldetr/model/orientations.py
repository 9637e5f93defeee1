"""One tile seen in several orientations, and what was found in each made one: averaging at test time.

A network trained on all eight orientations answers a little differently in each, and errors that differ average out.
Cells of the orientations are put together by their centres: a cell's score is the mean over all orientations, 0 for one
that does not see it; its box is the mean of those found, weighted by score (weighted boxes fusion, Solovyev et al.,
2021, with distances of centres instead of IoU).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from celldetr.errors import InputError
from celldetr.outlines import RADII

Boxes = NDArray[np.float32]
TINY = 1e-6  # weights must not all be 0


@dataclass(frozen=True)
class Orientation:
    """Mirrored along x, along y, and then along the diagonal, each if so."""

    x: bool = False
    y: bool = False
    diagonal: bool = False

    def turn(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the same in this orientation; (B, C, W, H) if ``diagonal``."""
        axes = [axis for axis, mirrored in ((3, self.x), (2, self.y)) if mirrored]
        turned = images.flip(axes) if axes else images
        return turned.transpose(2, 3) if self.diagonal else turned

    def turn_boxes(self, boxes: Tensor) -> Tensor:
        """(..., 4) cxcywh, fractions of the image -> fractions of the turned image."""
        turned = self._mirror(boxes)
        return turned[..., [1, 0, 3, 2]] if self.diagonal else turned

    def back(self, boxes: Tensor) -> Tensor:
        """The inverse of ``turn_boxes``."""
        return self._mirror(boxes[..., [1, 0, 3, 2]] if self.diagonal else boxes)

    def back_radii(self, radii: Tensor) -> Tensor:
        """(..., RADII) outlines in the turned image -> as the image shows them."""
        direction = torch.arange(RADII, device=radii.device)
        for flips, mirrored in ((RADII // 2, self.x), (0, self.y), (RADII // 4, self.diagonal)):
            direction = (flips - direction) % RADII if mirrored else direction  # where each goes
        return radii[..., direction]

    def _mirror(self, boxes: Tensor) -> Tensor:
        if not (self.x or self.y):
            return boxes
        x, y, w, h = boxes.unbind(-1)
        return torch.stack([1 - x if self.x else x, 1 - y if self.y else y, w, h], dim=-1)


# Each count's are the first of these. Up to four keep the shape of a tile, which processors prepare for.
ORIENTATIONS = tuple(
    Orientation(x, y, diagonal)
    for diagonal in (False, True)
    for x, y in ((False, False), (True, True), (True, False), (False, True))
)
COUNTS = (1, 2, 4, 8)


def orientations_of(count: int) -> tuple[Orientation, ...]:
    """The first ``count`` orientations.

    Raises:
        InputError: another count than 1, 2, 4 or 8, for which they would not lie evenly.
    """
    if count not in COUNTS:
        raise InputError(f"orientations={count}: expected {', '.join(map(str, COUNTS[:-1]))} or {COUNTS[-1]}")
    return ORIENTATIONS[:count]


def merge(
    boxes: Sequence[Boxes], scores: Sequence[NDArray[np.float32]], distance: float
) -> tuple[Boxes, NDArray[np.float32]]:
    """Put together what was found in each of k orientations.

    By falling score, a cell takes from every other orientation the nearest one that is not taken, if any is near.

    Args:
        boxes: k arrays (N_i, 4), cxcywh in pixels of the tile as it is; in each, centres lie ``distance`` apart.
        scores: k arrays (N_i,).
        distance: centres this near or nearer are of one nucleus, > 0.

    Returns:
        (N, 4) mean boxes and (N,) mean scores, the cell with the best score in any orientation first.
    """
    box, score = np.concatenate(boxes), np.concatenate(scores)
    view = np.repeat(np.arange(len(boxes)), [len(each) for each in boxes])
    taken = np.zeros(len(box), dtype=np.bool_)
    merged_boxes: list[Boxes] = []
    merged_scores: list[np.float32] = []
    near = KDTree(box[:, :2]).query_ball_point(box[:, :2], distance) if len(box) else []
    for first in np.argsort(-score, kind="stable"):
        if taken[first]:
            continue
        free = np.array([other for other in near[first] if not taken[other]])
        free = free[np.argsort(np.hypot(*(box[free, :2] - box[first, :2]).T), kind="stable")]
        members = free[np.unique(view[free], return_index=True)[1]]  # of each orientation the nearest
        taken[members] = True
        merged_boxes.append(np.average(box[members], axis=0, weights=np.maximum(score[members], TINY)))
        merged_scores.append(score[members].sum() / len(boxes))
    return np.array(merged_boxes, np.float32).reshape(-1, 4), np.array(merged_scores, np.float32)
