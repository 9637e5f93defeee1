"""Metrics of masks against the papers' words in plain loops over pixels, on random instance maps."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console

from celldetr.data.masks import Polygons, draw
from celldetr.data.sample import UNKNOWN, Sample
from celldetr.evaluation.format import show_report
from celldetr.evaluation.image_cells import image_cells
from celldetr.evaluation.mask_overlap import MaskOverlap, ceiling_overlap, count_overlap, predicted_overlap
from celldetr.evaluation.panoptic import MaskTotals, aggregated_jaccard, count_masks, dice, score_masks
from celldetr.evaluation.score import score_images
from celldetr.model.output import TileCells
from celldetr.outlines import RADII
from helpers.scenes import TYPES, image

Pixels = set[tuple[int, int]]


def pixels_of(numbers: NDArray[np.integer], count: int) -> list[Pixels]:
    masks: list[Pixels] = [set() for _ in range(count)]
    for y in range(numbers.shape[0]):
        for x in range(numbers.shape[1]):
            if numbers[y, x]:
                masks[numbers[y, x] - 1].add((y, x))
    return masks


def iou(a: Pixels, b: Pixels) -> float:
    return len(a & b) / len(a | b)


def slow_pq(predicted: list[Pixels], true: list[Pixels]) -> tuple[int, int, int, float, float, float, float]:
    """TP, FP, FN, sum of IoU, DQ, SQ and PQ of masks that each have a pixel."""
    tp, total = 0, 0.0
    for t in true:
        for p in predicted:
            if iou(p, t) > 0.5:
                tp += 1
                total += iou(p, t)
    fp, fn = len(predicted) - tp, len(true) - tp
    dq = tp / (tp + 0.5 * fp + 0.5 * fn) if tp + fp + fn else 0.0
    sq = total / tp if tp else 0.0
    return tp, fp, fn, total, dq, sq, dq * sq


def slow_aji(predicted: list[Pixels], true: list[Pixels]) -> float:
    """Algorithm 1 of Kumar et al., step by step."""
    above = below = 0
    used = set()
    for t in true:
        best, found = 0.0, -1
        for k, p in enumerate(predicted):
            if iou(p, t) > best:
                best, found = iou(p, t), k
        if found < 0:
            below += len(t)
            continue
        above += len(t & predicted[found])
        below += len(t | predicted[found])
        used.add(found)
    return (above) / (below + sum(len(p) for k, p in enumerate(predicted) if k not in used))


def slow_dice(predicted: list[Pixels], true: list[Pixels]) -> float:
    a, b = set().union(*predicted), set().union(*true)
    return 2 * len(a & b) / (len(a) + len(b))


@st.composite
def maps(draw_: Any) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.int64], NDArray[np.int64]]:
    """Predicted and true maps of rectangles over one another, some of them hidden, and types; predictions are moved
    nuclei and others."""
    rng = np.random.default_rng(draw_(st.integers(0, 2**32 - 1)))
    shape = (int(rng.integers(8, 24)), int(rng.integers(8, 24)))
    n_true, n_extra = draw_(st.integers(0, 9)), draw_(st.integers(0, 4))
    corners = rng.integers(0, 18, (n_true, 2))
    sizes = rng.integers(1, 9, (n_true, 2))
    kept = rng.random(n_true) < 0.85
    moved = np.concatenate([corners[kept] + rng.integers(-1, 2, (kept.sum(), 2)), rng.integers(0, 18, (n_extra, 2))])
    pred_sizes = np.concatenate([sizes[kept] + rng.integers(0, 2, (kept.sum(), 2)), rng.integers(1, 6, (n_extra, 2))])

    def painted(corners: Any, sizes: Any) -> NDArray[np.integer]:
        canvas = np.zeros(shape, np.int32)
        for i, ((y, x), (height, width)) in enumerate(zip(corners.clip(0), sizes, strict=True), 1):
            canvas[y : y + height, x : x + width] = i
        return canvas

    return (
        painted(moved, pred_sizes),
        painted(corners, sizes),
        rng.integers(0, 3, len(moved)),
        rng.integers(-1 if draw_(st.booleans()) else 0, 3, n_true),
    )


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(maps())
def test_every_number_is_that_of_the_papers(drawn: Any) -> None:
    pred_map, true_map, pred_types, true_types = drawn
    overlap = count_overlap(pred_map, true_map, len(pred_types), len(true_types))
    found = count_masks(overlap, pred_types, true_types, 3)
    every_pred, every_true = pixels_of(pred_map, len(pred_types)), pixels_of(true_map, len(true_types))
    predicted = [(p, int(kind)) for p, kind in zip(every_pred, pred_types, strict=True) if p]
    true = [(t, int(kind)) for t, kind in zip(every_true, true_types, strict=True) if t]
    p, t = [mask for mask, _ in predicted], [mask for mask, _ in true]
    tp, fp, fn, total, dq, sq, pq = slow_pq(p, t)
    assert (found.nuclei.tp, found.nuclei.fp, found.nuclei.fn) == (tp, fp, fn)
    assert found.nuclei.iou == pytest.approx(total, abs=1e-9)
    if not t:
        assert found.image_means() == dict.fromkeys(found.image_means(), MaskTotals.none(3).bpq)
        return
    expected = {"dq": dq, "sq": sq, "bpq": pq, "aji": slow_aji(p, t), "dice": slow_dice(p, t)}
    of_types = []
    for c in range(3):
        # A prediction that lies on a nucleus of unknown type is not counted.
        unknown = [mask for mask, kind in true if kind == UNKNOWN]
        ours = [mask for mask, kind in predicted if kind == c and not any(iou(mask, other) > 0.5 for other in unknown)]
        theirs = [mask for mask, kind in true if kind == c]
        counts = slow_pq(ours, theirs)
        assert (found.types[c].tp, found.types[c].fp, found.types[c].fn) == counts[:3]
        assert found.type_pq[c].images == int(bool(theirs))
        if theirs:
            assert found.type_pq[c].value == pytest.approx(counts[-1], abs=1e-9)
            of_types.append(counts[-1])
    if of_types:
        expected["mpq"] = sum(of_types) / len(of_types)
    for name, value in expected.items():
        assert found.image_means()[name].value == pytest.approx(value, abs=1e-9), name
    assert found.mpq.images == int(bool(of_types))


def test_a_picture_worked_by_hand() -> None:
    """One nucleus found exactly, one by 3 of 5 pixels, one missed, one prediction elsewhere."""
    true = np.array([[1, 1, 0, 2, 2, 2, 2], [1, 1, 0, 3, 3, 0, 0]])
    pred = np.array([[1, 1, 0, 0, 2, 2, 2], [1, 1, 0, 0, 0, 0, 3]])
    found = count_masks(count_overlap(pred, true, 3, 3), np.zeros(3, int), np.zeros(3, int), 1)
    assert (found.nuclei.tp, found.nuclei.fp, found.nuclei.fn) == (2, 1, 1)
    assert found.dq.value == pytest.approx(2 / 3)
    assert found.sq.value == pytest.approx((1 + 3 / 4) / 2)
    assert found.bpq.value == pytest.approx(2 / 3 * 7 / 8)
    assert found.aji.value == pytest.approx((4 + 3) / (4 + 4 + 2 + 1))
    assert found.dice.value == pytest.approx(2 * 7 / (8 + 10))


def test_a_half_is_not_more_than_a_half() -> None:
    overlap = count_overlap(np.array([[1, 0]]), np.array([[1, 1]]), 1, 1)
    assert count_masks(overlap, np.zeros(1, int), np.zeros(1, int), 1).nuclei.tp == 0


def test_counts_and_means_add_up() -> None:
    """Two images: the means are over images, the counts over nuclei; an image without nuclei is in the counts alone."""
    good = count_overlap(np.array([[1, 2]]), np.array([[1, 2]]), 2, 2)
    poor = count_overlap(np.array([[1, 0]]), np.array([[0, 1]]), 1, 1)
    empty = count_overlap(np.array([[1, 1]]), np.array([[0, 0]]), 1, 0)
    kinds = [np.zeros(2, int), np.zeros(1, int)]
    totals = [
        count_masks(good, kinds[0], kinds[0], 2),
        count_masks(poor, kinds[1], kinds[1], 2),
        count_masks(empty, kinds[1], kinds[1][:0], 2),
    ]
    added = sum(totals, MaskTotals.none(2))
    assert (added.bpq.images, added.bpq.value) == (2, 0.5)
    assert (added.nuclei.tp, added.nuclei.fp, added.nuclei.fn) == (2, 2, 1)
    assert added.nuclei.pq == pytest.approx(2 / 3.5)
    assert added.scores(("a", "b"))["types"]["b"] == {
        "pq": None, "n_images": 0, "pooled": {"tp": 0, "fp": 0, "fn": 0, "dq": None, "sq": None, "pq": None}
    }  # fmt: skip
    assert added.scores(("a", "b"))["pooled"]["mean_type_pq"] == pytest.approx(2 / 3.5)


def crowd(seed: int, count: int = 30, side: int = 60) -> tuple[NDArray, NDArray, NDArray]:
    """Boxes that overlap, radii and scores."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, side - 8, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 14, (count, 2))], axis=1)
    return boxes, rng.uniform(0.5, 1.2, (count, RADII)).astype(np.float16), rng.random(count)


@pytest.mark.parametrize("outlined", [True, False])
def test_leaving_out_low_scores_gives_no_pixel_to_another(outlined: bool) -> None:
    boxes, radii, scores = crowd(1)
    true = draw(Polygons(np.array([*_discs(9), None], dtype=object)[:-1]).areas, range(9), (60, 60))
    drawn = radii if outlined else None
    every = predicted_overlap(boxes, drawn, scores, true, 9)
    kept = scores >= 0.4
    some = predicted_overlap(boxes[kept], radii[kept] if outlined else None, scores[kept], true, 9)
    for name, value in vars(every.keep(kept)).items():
        assert np.array_equal(value, getattr(some, name)), name
    assert every.pred_areas.sum() > some.pred_areas.sum()


def _discs(count: int) -> list[Any]:
    return [shapely.Point(10 + 20 * (i % 3), 10 + 20 * (i // 3)).buffer(5 + i / 3) for i in range(count)]


def test_ellipses_stand_in_for_outlines() -> None:
    box = np.array([[10.0, 20, 50, 40]])
    found = predicted_overlap(box, None, np.ones(1), np.ones((60, 60), np.int32), 1)
    assert found.pred_areas[0] == pytest.approx(np.pi * 20 * 10, rel=0.01)


def test_iou_of_pairs_that_do_and_do_not_touch() -> None:
    overlap = count_overlap(np.array([[1, 1, 2, 0]]), np.array([[1, 2, 2, 3]]), 2, 3)
    found = overlap.iou_of(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]))
    assert found.tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 2, 0])
    nothing = count_overlap(np.zeros((2, 2), int), np.zeros((2, 2), int), 1, 1)
    assert nothing.iou_of(np.array([0]), np.array([0])).tolist() == [0]


def test_the_ceiling_of_discs_is_nearly_one_and_of_crescents_is_not() -> None:
    crescent = shapely.Point(32, 32).buffer(20).difference(shapely.Point(32, 20).buffer(18))
    dice_of = []
    for areas in (_discs(9), [crescent]):
        masks = Polygons(np.array(areas, dtype=object))
        boxes, kinds = shapely.bounds(masks.areas), np.zeros(len(areas), int)
        dice_of.append(count_masks(ceiling_overlap(masks, boxes, masks.map((64, 64))), kinds, kinds, 1).dice.value)
    assert dice_of[0] > 0.97
    assert dice_of[1] < 0.9


def test_reports_have_masks_where_images_do() -> None:
    truth = count_overlap(np.array([[1, 2, 2, 0]]), np.array([[1, 2, 0, 3]]), 2, 3)
    perfect = count_overlap(np.array([[1, 2, 0, 3]]), np.array([[1, 2, 0, 3]]), 3, 3)
    cells = [
        image([(0, 0), (90, 0)], [(0, 0), (90, 0), (200, 0)], pred_types=[0, 1], true_types=[0, 2, -1], name=name)
        for name in "abc"
    ]
    masked = [replace(each, overlap=truth, ceiling=perfect, tissue="Colon") for each in cells[:2]]
    report = score_images([*masked, cells[2]], TYPES, threshold=0.5, resamples=50)
    scores = score_masks([*masked, cells[2]], 3)
    assert report.masks == scores
    assert scores is not None
    assert (scores.drawn, scores.totals.bpq.images) == ("ellipses", 2)
    assert [each is None for each in scores.images] == [False, False, True]
    assert report.median_mask_iou == pytest.approx(0.75)
    content = report.to_json()
    assert content["masks"]["bpq"] == pytest.approx(1 / 2.5)
    assert content["masks"]["types"]["neoplastic"]["pq"] == 1
    assert content["masks"]["types"]["connective"]["pq"] == 0
    assert content["masks"]["types"]["inflammatory"]["pq"] is None
    assert content["masks"]["mpq"] == 0.5
    assert (content["masks"]["ceiling"]["bpq"], content["masks"]["ceiling"]["median_iou"]) == (1, 1)
    assert content["tissues"]["Colon"]["masks"]["mpq"] == 0.5
    assert content["images"][2]["masks"] is None
    assert content["intervals_95"]["metrics"]["masks.bpq"] == pytest.approx((0.4, 0.4))
    without = score_images(cells, TYPES, threshold=0.5, resamples=0)
    assert without.masks is without.median_mask_iou is without.to_json()["masks"] is None


def test_a_model_that_draws_the_truth_reaches_the_ceiling() -> None:
    """At the resolution of the labels; below it, an ellipse for want of outlines."""
    areas = np.array(_discs(9), dtype=object)
    areas[0] = shapely.box(4, 4, 16, 14)
    masks, boxes = Polygons(areas), shapely.bounds(areas)
    types = np.zeros(9, np.int64)
    labelled = Sample(
        "a", np.zeros((64, 64, 3), np.uint8), 0.25, boxes.astype(np.float32), types, TYPES,
        ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32), masks=masks,
    )  # fmt: skip
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    radii = np.linalg.norm((masks.outlines(boxes) - centre[:, None]) / half[:, None], axis=2).astype(np.float16)
    cells = TileCells(
        boxes, np.full(9, 0.9, np.float32), np.eye(3, dtype=np.float32)[types], np.zeros((9, 4), np.float16), radii
    )
    scores = {}
    for name, made in (("outlines", cells), ("ellipses", replace(cells, radii=None))):
        report = score_images([image_cells(labelled, made, TYPES)], TYPES, threshold=0.5, resamples=0)
        assert report.masks is not None
        assert report.masks.drawn == name
        scores[name] = report.masks
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(show_report(report))
        shown = console.export_text()
        assert ("ellipses in the boxes" in shown) == (name == "ellipses")
        assert max(map(len, shown.splitlines())) <= 80
        assert "…" not in shown
    drawn, ceiling = scores["outlines"].totals.bpq.value, scores["outlines"].ceiling.bpq.value
    assert drawn is not None
    assert drawn == pytest.approx(ceiling, abs=0.01)
    assert drawn > 0.95
    ellipses = scores["ellipses"].totals.bpq.value
    assert ellipses is not None
    assert 0.9 < ellipses < drawn
    half_masked = replace(labelled, masks=Polygons(np.array([*areas[:-1], None], dtype=object)))
    assert image_cells(half_masked, cells, TYPES).overlap is None


def test_nothing_predicted_and_nothing_there() -> None:
    nothing = MaskOverlap(*(np.zeros(0, int) for _ in range(5)))
    assert aggregated_jaccard(nothing) is dice(nothing) is None
    missed = count_overlap(np.zeros((2, 2), int), np.array([[0, 1], [0, 0]]), 0, 1)
    found = count_masks(missed, np.zeros(0, int), np.zeros(1, int), 1)
    assert {name: mean.value for name, mean in found.image_means().items()} == dict.fromkeys(found.image_means(), 0.0)
