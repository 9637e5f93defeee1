"""AP of boxes against COCO's procedure written out in plain loops, and against values worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celldetr.evaluation.box_ap import box_ap, overlapping
from celldetr.evaluation.image_cells import ImageCells
from celldetr.evaluation.score import score_images
from helpers.scenes import TYPES, image

Box = Sequence[float]


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = width * height if width > 0 and height > 0 else 0.0
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def coco(images: Sequence[ImageCells], kind: int | None) -> float | None:
    """COCO's evaluateImg and accumulate at one IoU, for one category, or for all boxes as one (``kind`` None)."""
    judged: list[tuple[float, bool]] = []
    n_true = 0
    for cells in images:
        truth = [
            (box.tolist(), bool(kind is not None and known == -1))
            for box, known in zip(cells.true_boxes, cells.true_types, strict=True)
            if kind is None or known in (kind, -1)
        ]
        truth.sort(key=lambda item: item[1])  # ignored ones last
        n_true += sum(not ignored for _, ignored in truth)
        predictions = [
            (float(score if kind is None else score * of_type), box.tolist())
            for box, score, of_type, label in zip(
                cells.pred_boxes, cells.pred_scores, cells.pred_type_scores, cells.pred_types, strict=True
            )
            if kind is None or label == kind
        ]
        taken: set[int] = set()
        for score, box in sorted(predictions, key=lambda item: -item[0]):
            best, match = 0.5, -1
            for g, (true, ignored) in enumerate(truth):
                if g in taken:
                    continue
                if match >= 0 and not truth[match][1] and ignored:
                    break
                if iou(box, true) >= best:
                    best, match = iou(box, true), g
            if match >= 0:
                taken.add(match)
            if match < 0 or not truth[match][1]:
                judged.append((score, match >= 0))
    if not n_true:
        return None
    judged.sort(key=lambda item: -item[0])
    points, hits = [], 0
    for n, (_, right) in enumerate(judged, 1):
        hits += right
        points.append((hits / n_true, hits / n))
    total = 0.0
    for recall in np.linspace(0, 1, 101):
        total += max((p for r, p in points if r >= recall), default=0.0)
    return total / 101


def scene(seed: int) -> ImageCells:
    """Boxes that crowd each other: every prediction overlaps several, some true cells are of unknown type."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(0, 30, (rng.integers(0, 9), 2))
    pred = np.concatenate([true[rng.random(len(true)) < 0.8], rng.uniform(0, 30, (rng.integers(0, 5), 2))])
    pred = pred + rng.normal(0, 1.5, pred.shape)
    cells = image(
        pred,
        true,
        pred_types=rng.integers(0, 3, len(pred)),
        true_types=rng.integers(-1, 3, len(true)),
        scores=rng.random(len(pred)),
        type_scores=rng.uniform(0.3, 1, len(pred)),
    )
    grow = [rng.uniform(0, 3, (n, 4)) * [-1, -1, 1, 1] for n in (len(pred), len(true))]
    return replace(cells, pred_boxes=cells.pred_boxes + grow[0], true_boxes=cells.true_boxes + grow[1])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_agrees_with_coco_written_out(seed: int, n_images: int) -> None:
    images = [scene(seed + k) for k in range(n_images)]
    measured = box_ap(images, 3)
    assert measured.detection == (None if (ap := coco(images, None)) is None else pytest.approx(ap))
    for kind in range(3):
        assert measured.types[kind] == (None if (ap := coco(images, kind)) is None else pytest.approx(ap))
    defined = [ap for ap in measured.types if ap is not None]
    assert measured.mean == (pytest.approx(np.mean(defined)) if defined else None)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_overlaps_are_all_those_of_half_or_more(seed: int) -> None:
    cells = scene(seed)
    a, b = cells.pred_boxes, cells.true_boxes
    i, j, value = overlapping(a, b)
    every = {(m, n): iou(a[m], b[n]) for m in range(len(a)) for n in range(len(b))}
    expected = {pair: pytest.approx(each) for pair, each in every.items() if each >= 0.5}
    assert dict(zip(zip(i.tolist(), j.tolist(), strict=True), value.tolist(), strict=True)) == expected


def test_by_hand() -> None:
    # Right, wrong, right of two true cells: precision 1 up to recall 1/2 (51 of the recalls), 2/3 from there to 1 (50).
    cells = image([(10, 10), (50, 50), (90, 90)], [(10, 10), (90, 90)], scores=[0.9, 0.8, 0.7])
    assert box_ap([cells], 1).detection == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_an_overlap_of_half_counts_and_a_second_hit_does_not() -> None:
    cells = image([(10, 10)], [(10, 10)])
    half = replace(cells, pred_boxes=np.array([[6.0, 6.0, 14.0, 10.0]]), true_boxes=np.array([[6.0, 6.0, 14.0, 14.0]]))
    assert box_ap([half], 1).detection == 1
    less = replace(half, pred_boxes=np.array([[6.0, 6.0, 14.0, 9.99]]))
    assert box_ap([less], 1).detection == 0
    twice = image([(10, 10), (10, 10), (40, 40)], [(10, 10), (40, 40)], scores=[0.9, 0.8, 0.7])
    assert box_ap([twice], 1).detection == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_type_ap_ranks_by_the_product_and_detection_by_objectness() -> None:
    # The false alarm has the higher objectness and the lower product.
    cells = image([(10, 10), (50, 50)], [(10, 10)], scores=[0.8, 0.9], type_scores=[0.9, 0.5])
    measured = box_ap([cells], 2)
    assert (measured.detection, measured.types) == (pytest.approx(0.5), (pytest.approx(1.0), None))


def test_a_cell_of_unknown_type_is_neither_right_nor_wrong() -> None:
    cells = image([(10, 10), (50, 50)], [(10, 10), (50, 50)], true_types=[-1, 0], scores=[0.9, 0.8])
    measured = box_ap([cells], 1)
    assert (measured.detection, measured.types) == (pytest.approx(1.0), (pytest.approx(1.0),))


def test_the_order_of_cells_changes_nothing() -> None:
    cells = image([(10, 10), (12, 10), (50, 50)], [(11, 10), (50, 50)], scores=[0.5, 0.5, 0.5], pred_types=[0, 1, 0])
    turned = replace(
        cells,
        **{name: getattr(cells, name)[::-1] for name in vars(cells) if name.startswith("pred_")},
    )
    assert box_ap([cells], 2) == box_ap([turned], 2)


def test_equal_scores_pass_together() -> None:
    for pred in ([(10, 10), (50, 50)], [(50, 50), (10, 10)]):  # right first, and wrong first
        assert box_ap([image(pred, [(10, 10)], scores=[0.5, 0.5])], 1).detection == pytest.approx(0.5)


def test_boxes_derived_from_points_are_not_judged() -> None:
    pred, true = [(10, 10), (40, 40)], [(11, 10), (40, 41)]
    annotated = score_images([image(pred, true)], TYPES, threshold=0.5)
    derived = score_images([image(pred, true, derived_boxes=True)], TYPES, threshold=0.5)
    assert annotated.box_ap is not None
    assert annotated.summary()["boxes"] == "annotated"
    assert annotated.summary()["box_ap50"] == annotated.summary()["types"]["neoplastic"]["box_ap50"] == 1
    assert derived.box_ap is None
    assert derived.summary()["boxes"] == "derived from points"
    assert derived.summary()["box_ap50"] is derived.summary()["types"]["neoplastic"]["box_ap50"] is None
    assert derived.mean_iou == annotated.mean_iou == pytest.approx(7 / 9)
