"""Box geometry against torchvision's, against counting pixels, and as properties of any boxes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision import ops

from celldetr.boxes import (
    absolute_boxes,
    box_area,
    cxcywh_to_xyxy,
    generalised_iou,
    inverse_sigmoid,
    iou,
    normalise_boxes,
    xyxy_to_cxcywh,
)

coordinate = st.floats(-1e4, 1e4)
side = st.floats(1e-2, 1e3)


@st.composite
def corners(draw: st.DrawFn, most: int = 6) -> Tensor:
    """(N, 4) float64 xyxy boxes with sides above zero, N from 0."""
    rows = draw(st.lists(st.tuples(coordinate, coordinate, side, side), max_size=most))
    boxes = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


def random_corners(n: int, seed: int) -> Tensor:
    low, size = torch.rand(2, n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([low, low + size], dim=1)


@given(corners())
def test_conversions_are_torchvisions(boxes: Tensor) -> None:
    centred = ops.box_convert(boxes, "xyxy", "cxcywh")
    torch.testing.assert_close(xyxy_to_cxcywh(boxes), centred)
    torch.testing.assert_close(cxcywh_to_xyxy(centred), ops.box_convert(centred, "cxcywh", "xyxy"))


@given(corners())
def test_conversions_undo_each_other(boxes: Tensor) -> None:
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)


@given(corners(), st.integers(1, 5000), st.integers(1, 5000))
def test_normalising_is_undone(boxes: Tensor, width: int, height: int) -> None:
    normal = normalise_boxes(boxes, width, height)
    torch.testing.assert_close(absolute_boxes(normal, width, height), boxes, atol=1e-7, rtol=1e-7)


def test_normalised_boxes_are_fractions_of_each_side() -> None:
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # centre (20, 40), 20 x 40
    assert normalise_boxes(box, 100, 200).tolist() == [pytest.approx([0.2, 0.2, 0.2, 0.2])]


@given(corners(), corners())
def test_overlaps_are_torchvisions(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(iou(a[:, None], b[None]), ops.box_iou(a, b))
    torch.testing.assert_close(generalised_iou(a[:, None], b[None]), ops.generalized_box_iou(a, b))
    torch.testing.assert_close(box_area(a), ops.box_area(a))


def test_overlap_is_the_share_of_pixels() -> None:
    # Whole-numbered boxes, whose pixels can be counted.
    generator = torch.Generator().manual_seed(4)
    low, size = torch.randint(0, 6, (2, 40, 2, 2), generator=generator)
    boxes = torch.cat([low, low + size], dim=-1)  # 40 pairs, some of them empty
    for a, b in boxes:
        masks = torch.zeros(2, 12, 12, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, (a.tolist(), b.tolist()), strict=True):
            mask[y0:y1, x0:x1] = True
        union = int((masks[0] | masks[1]).sum())
        expected = int((masks[0] & masks[1]).sum()) / union if union else 0.0
        assert iou(a.float(), b.float()).item() == pytest.approx(expected)


@given(corners(), corners(), st.floats(0.1, 10), coordinate)
def test_overlap_does_not_depend_on_order_place_or_scale(a: Tensor, b: Tensor, scale: float, shift: float) -> None:
    for measure in (iou, generalised_iou):
        value = measure(a[:, None], b[None])
        torch.testing.assert_close(measure(b[:, None], a[None]).T, value)
        moved = measure(a[:, None] * scale + shift, b[None] * scale + shift)
        torch.testing.assert_close(moved, value, atol=1e-6, rtol=1e-6)


@given(corners(), corners())
def test_overlap_is_bounded_and_one_only_for_itself(a: Tensor, b: Tensor) -> None:
    plain, general = iou(a[:, None], b[None]), generalised_iou(a[:, None], b[None])
    assert ((plain >= 0) & (plain <= 1 + 1e-9)).all()
    assert ((general >= -1) & (general <= plain + 1e-9)).all()
    torch.testing.assert_close(generalised_iou(a, a), torch.ones(len(a), dtype=a.dtype))


def test_generalised_iou_falls_with_distance_where_iou_is_flat() -> None:
    still = torch.tensor([0.0, 0.0, 1.0, 1.0])
    away = still + torch.tensor([2.0, 5.0, 50.0])[:, None] * torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert iou(still, away).tolist() == [0, 0, 0]
    # Two unit squares in a hull of d + 1: GIoU = 0 - (d + 1 - 2) / (d + 1).
    assert generalised_iou(still, away).tolist() == pytest.approx([-1 / 3, -4 / 6, -49 / 51])


def test_inverted_boxes_are_empty() -> None:
    inverted = torch.tensor([5.0, 5.0, 2.0, 8.0])
    assert box_area(inverted) == 0
    assert iou(inverted, torch.tensor([0.0, 0.0, 10.0, 10.0])) == 0


def test_points_have_finite_overlap_and_gradient() -> None:
    # A collapsed prediction on a collapsed target: no division by zero, forward or backward.
    a = torch.tensor([[1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    b = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    for measure in (iou, generalised_iou):
        value = measure(a, b)
        assert value.tolist() == [0]
        (gradient,) = torch.autograd.grad(value.sum(), a)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("measure", [iou, generalised_iou])
def test_gradients_of_overlap(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = random_corners(12, 0).requires_grad_(), random_corners(12, 1).requires_grad_()
    assert torch.autograd.gradcheck(measure, (a, b))
    assert torch.autograd.gradcheck(lambda x, y: measure(x[:, None], y[None]), (a[:3], b[:4]))


@pytest.mark.parametrize("function", [cxcywh_to_xyxy, xyxy_to_cxcywh, box_area, inverse_sigmoid])
def test_gradients_of_conversions(function: Callable[[Tensor], Tensor]) -> None:
    boxes = (0.05 + 0.4 * random_corners(5, 2)).requires_grad_()
    assert torch.autograd.gradcheck(function, (boxes,))


def test_no_boxes_are_fine() -> None:
    none, some = torch.empty(0, 4), torch.rand(3, 4)
    for converted in (
        cxcywh_to_xyxy(none),
        xyxy_to_cxcywh(none),
        normalise_boxes(none, 5, 7),
        absolute_boxes(none, 5, 7),
    ):
        assert converted.shape == (0, 4)
    assert box_area(none).shape == (0,)
    assert iou(none[:, None], some[None]).shape == (0, 3)
    assert generalised_iou(some[:, None], none[None]).shape == (3, 0)


def test_batches_keep_their_shape() -> None:
    boxes = torch.rand(2, 3, 5, 4)
    torch.testing.assert_close(cxcywh_to_xyxy(boxes)[1, 2], cxcywh_to_xyxy(boxes[1, 2]))
    torch.testing.assert_close(absolute_boxes(boxes, 9, 4)[0, 1], absolute_boxes(boxes[0, 1], 9, 4))


@given(st.floats(1e-4, 1 - 1e-4))
def test_inverse_sigmoid_undoes_the_sigmoid(p: float) -> None:
    x = torch.tensor(p, dtype=torch.float64)
    torch.testing.assert_close(inverse_sigmoid(x).sigmoid(), x)
    torch.testing.assert_close(inverse_sigmoid(x), torch.logit(x))


@pytest.mark.parametrize("value", [-3.0, 0.0, 1.0, 4.0])
def test_inverse_sigmoid_is_finite_everywhere(value: float) -> None:
    limit = torch.logit(torch.tensor(1e-5, dtype=torch.float64)).abs()
    x = torch.tensor(value, dtype=torch.float64)
    assert inverse_sigmoid(x).abs().item() == pytest.approx(limit.item(), rel=1e-4)
    assert inverse_sigmoid(x).sign() == (1 if value >= 1 else -1)
