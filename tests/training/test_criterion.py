"""Losses against other libraries, values worked by hand, and what minimising them leads to."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from celldetr.data.dataset import concatenate
from celldetr.model.detection import Detections
from celldetr.recipes import load_recipe
from celldetr.training.criterion import (
    SetCriterion,
    TrainingOutput,
    TypeOutput,
    box_losses,
    class_weights,
    composition_loss,
    dense_losses,
    detection_losses,
    type_loss,
)
from helpers.targets import targets

LOWEST = torch.finfo(torch.float32).min


def test_small_boxes_have_the_whole_loss() -> None:
    """Nuclei of 4 px in an image of 256 px: the epsilon of torchvision's default would be seen."""
    boxes = torch.tensor([[0.5, 0.5, 4 / 256, 4 / 256]])
    l1, giou = box_losses(boxes + torch.tensor([2 / 256, 0.0, 0.0, 0.0]), boxes, 2.0)
    assert float(giou) == pytest.approx(2 / 3 / 2, rel=1e-6)  # half of each overlaps, in a hull of one and a half
    assert float(l1) == pytest.approx(2 / 256 / 2)


def test_detection_losses_by_hand() -> None:
    half = math.log(2) * 0.25  # focal loss of a logit of 0, before alpha
    found = Detections(
        boxes=torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.3, 0.5, 0.2, 0.4]]]]).requires_grad_(),
        logits=torch.tensor([[[0.0, 0.0]]]).requires_grad_(),
    )
    target = torch.tensor([[0.3, 0.5, 0.2, 0.2]])
    (losses,) = detection_losses(found, [targets(target)], [[(torch.tensor([1]), torch.tensor([0]))]], nuclei=2.0)
    assert float(losses["class"]) == pytest.approx((0.75 + 0.25) * half / 2)
    assert float(losses["l1"]) == pytest.approx(0.2 / 2)
    assert float(losses["giou"]) == pytest.approx(0.5 / 2)  # half of the box, which is also the hull


def test_sure_boxes_away_from_every_label_are_not_punished() -> None:
    """One matched, one beside the nucleus (a second box of it), one far and sure, one far and unsure."""
    boxes = torch.tensor([[[[0.2, 0.2, 0.1, 0.1], [0.22, 0.2, 0.1, 0.1], [0.7, 0.7, 0.1, 0.1], [0.4, 0.7, 0.1, 0.1]]]])
    logits = torch.tensor([[[1.0, 2.0, 2.0, -0.5]]], requires_grad=True)
    target, match = targets(boxes[0, 0, :1]), [[(torch.tensor([0]), torch.tensor([0]))]]
    (losses,) = detection_losses(Detections(boxes, logits), [target], match, 1.0, 0.6)
    losses["class"].backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[[True, True, False, True]]]


def test_boxes_in_images_without_labels_are_punished() -> None:
    logits = torch.full((1, 1, 2), 3.0, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    found = Detections(torch.rand(1, 1, 2, 4), logits)
    (losses,) = detection_losses(found, [targets(torch.zeros(0, 4))], [[(nothing, nothing)]], 1.0, 0.6)
    (all_punished,) = detection_losses(found, [targets(torch.zeros(0, 4))], [[(nothing, nothing)]], 1.0)
    assert float(losses["class"]) == float(all_punished["class"]) > 0


def test_sure_tokens_away_from_every_label_are_not_punished() -> None:
    anchors, size = grid(16, 128.0)
    logits = torch.full((1, 256), 1.0, requires_grad=True)
    losses = dense_losses(Detections(anchors.clone(), logits), anchors, [targets(NUCLEI)], size, 3.0, 0.6)
    losses["class"].backward()
    assert logits.grad is not None
    radii = ((anchors[0, :, None, :2] - NUCLEI[None, :, :2]) / (NUCLEI[None, :, 2:] / 2)).norm(dim=-1).amin(1)
    assert torch.equal(logits.grad[0] != 0, radii <= 2)


def test_layers_are_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, 2, 5, 4, generator=generator) * 0.4 + 0.1
    logits = torch.randn(2, 2, 5, generator=generator)
    true = [targets(boxes[0, 0, :3]), targets(boxes[1, 1, 2:4])]
    matches = [
        [(torch.tensor([4, 0, 2]), torch.tensor([1, 0, 2])), (torch.tensor([1, 3]), torch.tensor([0, 1]))],
        [(torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1])), (torch.tensor([2, 0]), torch.tensor([1, 0]))],
    ]
    together = detection_losses(Detections(boxes, logits), true, matches, nuclei=5.0)
    for layer in range(2):
        found = Detections(boxes[layer, None], logits[layer, None])
        (alone,) = detection_losses(found, true, matches[layer : layer + 1], nuclei=5.0)
        assert {name: float(value) for name, value in alone.items()} == pytest.approx(
            {name: float(value) for name, value in together[layer].items()}
        )


def test_padding_and_images_without_nuclei_in_detection_losses() -> None:
    logits = torch.tensor([[[1.0, LOWEST], [-1.0, 0.5]]]).requires_grad_()
    found = Detections(torch.rand(1, 2, 2, 4), logits)
    nothing = torch.zeros(0, dtype=torch.long)
    (losses,) = detection_losses(found, [targets(torch.zeros(0, 4))] * 2, [[(nothing, nothing)] * 2], nuclei=1.0)
    real = torch.tensor([1.0, -1.0, 0.5])
    torch.testing.assert_close(losses["class"], sigmoid_focal_loss(real, torch.zeros(3), 0.25, 2.0).sum())
    assert float(losses["l1"]) == float(losses["giou"]) == 0.0
    losses["class"].backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def grid(side: int, pixels: float) -> tuple[Tensor, Tensor]:
    """Anchors (1, side², 4) at the centres of a grid over an image of ``pixels``, and the image's size (1, 2)."""
    place = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(place, place, indexing="ij")
    centres = torch.stack([x.flatten(), y.flatten()], dim=-1)
    return torch.cat([centres, torch.full_like(centres, 2 / side)], dim=-1)[None], torch.full((1, 2), pixels)


NUCLEI = torch.tensor([[0.2, 0.3, 0.2, 0.15], [0.36, 0.33, 0.12, 0.2], [0.8, 0.75, 0.1, 0.1]])  # two of them touch


def test_minimising_the_dense_loss_leaves_one_best_token_a_nucleus() -> None:
    anchors, size = grid(16, 128.0)
    logits = torch.zeros(1, 256, requires_grad=True)
    boxes = anchors.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits, boxes], lr=0.1)
    for _ in range(60):
        losses = dense_losses(Detections(boxes, logits), anchors, [targets(NUCLEI)], size, 3.0)
        optimizer.zero_grad()
        (losses["class"] + losses["l1"]).backward()
        optimizer.step()
    distance = torch.cdist(anchors[0, :, :2], NUCLEI[:, :2])
    best = logits[0].topk(3).indices
    assert set(best.tolist()) == set(distance.argmin(0).tolist())
    for token, nucleus in zip(distance.argmin(0), NUCLEI, strict=True):
        assert float((boxes[0, token] - nucleus).abs().max()) < 0.03


def test_dense_boxes_are_averaged_over_tokens() -> None:
    anchors, size = grid(16, 128.0)
    shifted = Detections(torch.zeros(1, 256, 4), torch.zeros(1, 256))
    one = NUCLEI[:1]
    losses = dense_losses(shifted, anchors, [targets(one)], size, 1.0)
    assert float(losses["l1"]) == pytest.approx(float(one.sum()), rel=1e-5)  # every token is off by the whole box


def test_dense_losses_without_a_nucleus() -> None:
    anchors, size = grid(4, 32.0)
    found = Detections(anchors.clone().requires_grad_(), torch.zeros(1, 16, requires_grad=True))
    losses = dense_losses(found, anchors, [targets(torch.zeros(0, 4))], size, 1.0)
    assert float(losses["class"]) == pytest.approx(16 * 0.25 * math.log(2), rel=1e-5)
    assert float(losses["l1"]) == float(losses["giou"]) == 0.0
    sum(losses.values()).backward()
    assert bool((found.logits.grad > 0).all())


def test_dense_losses_ignore_padding() -> None:
    anchors, size = grid(8, 64.0)
    boxes = torch.rand(1, 64, 4, generator=torch.Generator().manual_seed(0))
    logits = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    expected = dense_losses(Detections(boxes, logits), anchors, [targets(NUCLEI)], size, 3.0)
    pad_anchors = torch.cat([torch.cat([NUCLEI[:, :2], torch.full((3, 2), 0.25)], dim=1)[None], anchors], dim=1)
    padded_logits = torch.cat([torch.full((1, 3), LOWEST), logits], dim=1).requires_grad_()
    padded_boxes = torch.cat([torch.rand(1, 3, 4), boxes], dim=1).requires_grad_()
    padded = dense_losses(Detections(padded_boxes, padded_logits), pad_anchors, [targets(NUCLEI)], size, 3.0)
    for name, value in expected.items():
        torch.testing.assert_close(padded[name], value)
    sum(padded.values()).backward()
    assert float(padded_boxes.grad[:, :3].abs().sum()) == 0.0
    assert float(padded_logits.grad[:, :3].abs().sum()) == 0.0
    assert bool(padded_logits.grad.isfinite().all())


def test_type_loss_leaves_out_unknown_types() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    types = torch.tensor([0, -1, 2, 2, -1])
    weights = torch.tensor([1.0, 5.0, 3.0])
    loss = type_loss(logits, types, weights, 3.0, torch.ones(5))
    known = [0, 2, 3]
    wanted = torch.eye(3)[types[known]]
    per_cell = sigmoid_focal_loss(logits[known], wanted, 0.25, 2.0).sum(1)
    torch.testing.assert_close(loss, (per_cell * torch.tensor([1.0, 3.0, 3.0])).sum() / 3)
    loss.backward()
    assert logits.grad[[1, 4]].abs().sum() == 0
    assert bool((logits.grad[known].abs().sum(1) > 0).all())


@pytest.mark.parametrize("cells", [0, 2])
def test_type_loss_with_no_known_type_is_a_differentiable_zero(cells: int) -> None:
    logits = torch.randn(cells, 3, requires_grad=True)
    loss = type_loss(logits, torch.full((cells,), -1), torch.ones(3), 1.0, torch.ones(cells))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(logits.grad.abs().sum()) == 0.0


def test_the_type_loss_of_paper_r50_is_the_released_one() -> None:
    """Weight 0.2, times 8, of focal losses averaged over types and divided by all nuclei; of the last layer."""
    settings = load_recipe("paper-r50").training
    criterion = SetCriterion(settings, class_weights([500, 100, 20, 3, 80], settings.class_balance))
    draw = torch.Generator().manual_seed(0)
    logits, types = torch.randn(7, 5, generator=draw), torch.randint(0, 5, (7,), generator=draw)
    boxes = torch.rand(7, 4, generator=draw)
    output = TrainingOutput(types=[TypeOutput({0: logits}, [torch.arange(7)])])
    ours = criterion.total(criterion(output, [targets(boxes, types)]))
    p = logits.sigmoid()
    one_hot = functional.one_hot(types, 5)
    alpha, likely = 0.25 * one_hot + 0.75 * (1 - one_hot), torch.where(one_hot == 1, p, 1 - p)
    released = 0.2 * 8 * (alpha * (1 - likely) ** 2 * -likely.log()).mean(1).sum() / 7
    torch.testing.assert_close(ours, released)
    assert (settings.mode, settings.auxiliary_types) == ("sequential", False)


def test_balance_is_inverse_frequency_with_mean_one_over_cells() -> None:
    counts = [900, 100, 0, 25]
    weights = class_weights(counts, 0.5)
    assert float(weights[1] / weights[0]) == pytest.approx(3.0)
    assert float(weights[3] / weights[1]) == pytest.approx(2.0)
    assert weights[2] == weights[3]  # no cell: as the rarest
    assert float((weights * torch.tensor(counts)).sum()) == pytest.approx(sum(counts))


def test_balance_without_exponent_or_without_cells_is_one() -> None:
    assert class_weights([5, 0, 70], 0.0).tolist() == [1.0, 1.0, 1.0]
    assert class_weights([0, 0], 0.5).tolist() == [1.0, 1.0]


def test_a_cell_weighs_as_much_as_its_type_is_sure() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    types, weights = torch.tensor([0, -1, 2, 2, -1]), torch.tensor([1.0, 5.0, 3.0])
    confidence = torch.tensor([0.5, 0.9, 1.0, 0.0, 0.3])
    loss = type_loss(logits, types, weights, 1.5, confidence)
    per_cell = sigmoid_focal_loss(logits[[0, 2]], torch.eye(3)[[0, 2]], 0.25, 2.0).sum(1)
    torch.testing.assert_close(loss, (0.5 * per_cell[0] + 3.0 * per_cell[1]) / 1.5)
    sure = type_loss(logits, types, weights, 3.0, torch.ones(5))
    half = type_loss(logits, types, weights, 1.5, torch.full((5,), 0.5))  # all alike: as if all were sure
    torch.testing.assert_close(half, sure)


SPOTS = torch.tensor([0, 2, -1, 0, 2, 2, -1, 3])
SHARES = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0, 0], [0.0, 0.0, 1.0], [0.1, 0.9, 0.0]], dtype=torch.float64)


def test_composition_loss_is_the_divergence_worked_out_spot_by_spot() -> None:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    expected = 0.0
    for spot in (0, 2, 3):  # spot 1 has no nucleus
        rows = logits[SPOTS.eq(spot)].numpy()
        p = np.exp(rows - rows.max(1, keepdims=True))
        mean = (p / p.sum(1, keepdims=True)).mean(0)
        for share, q in zip(SHARES[spot].tolist(), mean, strict=True):
            expected += share * math.log(share / q) if share > 0 else 0.0
    assert float(composition_loss(logits, SPOTS, SHARES, 3.0)) == pytest.approx(expected / 3, rel=1e-5)
    exact = torch.log(SHARES[[2, 2, 2, 2]] + 1e-30)
    assert float(composition_loss(exact, torch.tensor([2, 2, 2, -1]), SHARES, 1.0)) == pytest.approx(0, abs=1e-6)


def test_gradient_of_the_composition_loss() -> None:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: composition_loss(x, SPOTS, SHARES, 2.0), logits)


def test_composition_loss_of_hopeless_logits_still_teaches() -> None:
    logits = torch.tensor([[500.0, 0.0, -500.0]] * 2).requires_grad_()
    loss = composition_loss(logits, torch.tensor([0, 0]), torch.tensor([[0.0, 0.0, 1.0]]), 1.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1000.0)
    assert logits.grad[:, 2].tolist() == [-0.5, -0.5]
    nothing = torch.randn(3, 2, requires_grad=True)
    zero = composition_loss(nothing, torch.full((3,), -1), torch.zeros(0, 2), 1.0)
    zero.backward()
    assert float(zero.detach()) == float(nothing.grad.abs().sum()) == 0.0


def test_spots_of_a_batch_are_renumbered() -> None:
    shares = torch.tensor([[1.0, 0.0]]), torch.zeros(0, 2), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    spots = torch.tensor([0, -1]), torch.tensor([-1]), torch.tensor([1, 0, -1])
    images = [targets(torch.rand(len(s), 4), spots=s, compositions=c) for s, c in zip(spots, shares, strict=True)]
    both = concatenate(images)
    assert both.spots.tolist() == [0, -1, -1, 2, 1, -1]
    assert both.compositions.tolist() == [[1, 0], [0.5, 0.5], [0, 1]]
    assert len(both) == 6
