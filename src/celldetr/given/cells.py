"""Cells that a user gives, and whether they can be of a slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.data.label_checks import FEW, LARGEST_UM
from celldetr.errors import InputError
from celldetr.slide.nucleus_size import size_doubt
from celldetr.slide.seams import centres

MOST_OUTSIDE = 0.01  # share of cells beyond the image: a detector may place some over its edge
PLAUSIBLE_UM = (2.0, 40.0)  # median size of nuclei: beyond, their pixels are not those of level 0
SINGLE_UM = (1.5, LARGEST_UM)  # size of any nucleus
NAMED = 3  # examples in a message
NOT_UNIQUE = "not every cell has an id of its own, so that given_id is the position of the cell, from 0"


@dataclass(frozen=True)
class GivenCells:
    """N cells in the order of their file.

    Attributes:
        boxes: (N, 4) xyxy, level-0 pixels; where only points are known, x, y, x, y.
        ids: (N,) int64 or text, of the file; the positions where it has none.
        scores: (N,) float32 in [0, 1]; 1 where the file says nothing.
        areas: (N,) shapely polygons in level-0 pixels, None for a cell without an outline; or None for all.
        only_points: whether the boxes are points.
        source: for provenance, JSON-able.
    """

    boxes: NDArray[np.float64]
    ids: NDArray[Any]
    scores: NDArray[np.float32]
    areas: NDArray[np.object_] | None = None
    only_points: bool = False
    source: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def centres(self) -> NDArray[np.float64]:
        """(N, 2) level-0 pixels."""
        return centres(self.boxes)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> GivenCells:
        """The cells at ``index`` (positions or a mask)."""
        areas = None if self.areas is None else self.areas[index]
        return GivenCells(
            self.boxes[index], self.ids[index], self.scores[index], areas, self.only_points, dict(self.source)
        )


def from_boxes(boxes: NDArray[np.floating]) -> GivenCells:
    """Cells of an array of boxes (N, 4) xyxy or centres (N, 2). Raises InputError: another shape."""
    values = np.asarray(boxes)
    if values.ndim != 2 or values.shape[1] not in (2, 4) or values.dtype.kind not in "iuf":
        raise InputError(
            f"`boxes`: expected numbers (N, 4), left, top, right, bottom, or centres (N, 2), got {values.dtype} of"
            f" shape {values.shape}"
        )
    only_points = values.shape[1] == 2
    corners = np.tile(values, 2) if only_points else values
    return GivenCells(
        corners.astype(np.float64), np.arange(len(values)), np.ones(len(values), np.float32), only_points=only_points
    )


def text_or_whole(ids: Sequence[str]) -> NDArray[Any]:
    """Ids of a file as whole numbers if all are, else as text."""
    whole = all(each.isascii() and each.isdigit() and len(each) < 19 and str(int(each)) == each for each in ids)
    return np.array(list(map(int, ids)), np.int64) if whole else np.array(ids, dtype=object)


def check_cells(
    boxes: NDArray[np.floating], width: int, height: int, mpp: tuple[float, float], *, only_points: bool = False
) -> tuple[NDArray[np.bool_], list[str]]:
    """Check that nuclei can be of an image.

    Args:
        boxes: (N, 4) xyxy, level-0 pixels.
        width: of the image, px.
        height: of it.
        mpp: micrometres per pixel along x and y.
        only_points: whether boxes have no size.

    Returns:
        (N,) whether the centre lies outside of the image, and what is doubtful, one sentence each.

    Raises:
        InputError: there is none, more than one in a hundred lies outside, or their size is impossible.
    """
    if not len(boxes):
        raise InputError("there are no nuclei; check the image, or the file that should have them")
    x, y = centres(boxes).T
    outside = ~((x >= 0) & (y >= 0) & (x <= width) & (y <= height))
    if outside.mean() > MOST_OUTSIDE:
        raise InputError(
            f"{outside.sum():,} of {len(boxes):,} nuclei lie outside of the image of {width:,} x {height:,} px (they "
            f"reach x {x.max():,.0f}, y {y.max():,.0f}): they are of another slide, or not in level-0 pixels"
        )
    doubts = [f"{outside.sum():,} of {len(boxes):,} nuclei lie outside of the image"] if outside.any() else []
    if only_points:
        return outside, doubts
    sizes = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    um = np.sqrt(np.maximum(sizes * mpp, 0).prod(axis=1))
    median = float(np.median(um))
    if not PLAUSIBLE_UM[0] <= median <= PLAUSIBLE_UM[1]:
        raise InputError(
            f"nuclei of {median:.2g} um in the median: expected {PLAUSIBLE_UM[0]:g} to {PLAUSIBLE_UM[1]:g}; they are "
            "not in level-0 pixels, or the mpp of the image is wrong"
        )
    if len(boxes) >= FEW and (sentence := size_doubt(median, float(np.sqrt(np.prod(mpp))))):
        doubts.insert(0, sentence)
    if odd := int(((um < SINGLE_UM[0]) | (um > SINGLE_UM[1])).sum()):
        doubts.insert(
            0,
            f"{odd:,} of {len(boxes):,} nuclei measure less than {SINGLE_UM[0]:g} or more than {SINGLE_UM[1]:g} um"
            f" ({um.min():.2g} to {um.max():.2g}): are they specks, or regions?",
        )
    return outside, doubts


def on_slide(
    given: GivenCells, width: int, height: int, mpp: tuple[float, float]
) -> tuple[GivenCells, NDArray[np.bool_], list[str]]:
    """The cells whose centre lies on a slide, which they are, and what is doubtful; raises as ``check_cells``."""
    empty = (given.boxes[:, 2:] <= given.boxes[:, :2]).any(1) & (not given.only_points)
    wrong = np.flatnonzero(empty | ~np.isfinite(given.boxes).all(1))
    if len(wrong):
        first = given.take(wrong[:1])
        raise InputError(
            f"cell {first.ids.tolist()[0]!r}: its box {first.boxes[0].tolist()} has no area ({len(wrong)} such cells);"
            " expected left, top, right, bottom in pixels"
        )
    outside, doubts = check_cells(given.boxes, width, height, mpp, only_points=given.only_points)
    if outside.any():
        named = ", ".join(map(str, given.ids[outside][:NAMED])) + ", ..." * bool(outside.sum() > NAMED)
        doubts[-1] += f" and are left out: {named}"
    repeated = len(given) - len(np.unique(given.boxes, axis=0))
    if repeated:
        doubts.append(f"{repeated:,} of {len(given):,} nuclei are given twice, and each is counted")
    return given.take(~outside), ~outside, doubts
