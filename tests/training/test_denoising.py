"""Denoising queries: what they start from and become, and that nobody else notices them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou

from celldetr.config import ModelConfig, TrainConfig
from celldetr.data.dataset import Batch
from celldetr.model.celldetr import CellDETR
from celldetr.model.detection import DetectionOutput, Detections
from celldetr.training.criterion import denoising_losses
from celldetr.training.denoising import FAR, NEAR, DenoisingQueries, denoising_queries
from celldetr.training.supervised import SupervisedLoss
from celldetr.training.trainer import image_generators
from helpers.targets import targets, without_nuclei

Models = Callable[..., ModelConfig]
LEARNED = {"queries": "learned", "coordinates": "image", "num_queries": 8}
GROUPS = 2


@pytest.fixture
def noised(tiny_batch: Batch) -> DenoisingQueries:
    made = denoising_queries(tiny_batch.targets, GROUPS, image_generators(0, 0, 0, 3))
    assert made is not None
    return made


def network(config: ModelConfig) -> CellDETR:
    torch.manual_seed(0)
    made = CellDETR(config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "backbone" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def test_each_nucleus_has_a_near_and_a_far_box_in_each_group(noised: DenoisingQueries, tiny_batch: Batch) -> None:
    assert noised.queries.boxes.shape == noised.boxes.shape == (3, GROUPS * 2 * 3, 4)
    assert noised.real.sum(1).tolist() == [GROUPS * 2 * 3, 0, GROUPS * 2]
    for image, boxes in enumerate(each.boxes for each in tiny_batch.targets):
        for near, (low, high) in ((True, NEAR), (False, FAR)):
            chosen = noised.real[image] & (noised.near[image] == near)
            torch.testing.assert_close(noised.boxes[image, chosen], boxes.repeat(GROUPS, 1))
            true, start = noised.boxes[image, chosen], noised.queries.boxes[image, chosen]
            moved = (start[:, :2] - true[:, :2]).abs() / (true[:, 2:] / 2)
            corners = box_convert(start, "cxcywh", "xyxy")
            inside = (corners > 0).all(-1) & (corners < 1).all(-1)  # else clipped
            assert bool((moved[inside] >= low - 1e-4).all())
            assert bool((moved[inside] <= high + 1e-4).all())
    assert len(noised.queries.boxes[0].unique(dim=0)) == GROUPS * 2 * 3  # each at random


def test_groups_and_padding_are_not_seen(noised: DenoisingQueries) -> None:
    beside = noised.queries.beside(5)[:, 0]
    group = [-1] * 5 + [0] * 6 + [1] * 6
    for image in range(3):
        real = [True] * 5 + noised.real[image].tolist()
        for row in range(17):
            for column in range(17):
                sees = group[row] == group[column] and (real[column] or row == column)
                assert bool(beside[image, row, column]) == (not sees)


def test_no_nucleus_no_query() -> None:
    assert denoising_queries([targets(torch.zeros(0, 4))] * 2, GROUPS, image_generators(0, 0, 0, 2)) is None


@pytest.mark.parametrize("changes", [{}, LEARNED, {"query_strides": [8, 16]}])
def test_what_is_detected_does_not_depend_on_them(
    changes: dict[str, object], noised: DenoisingQueries, tiny_model: Models, tiny_batch: Batch
) -> None:
    made = network(tiny_model(**changes)).train()
    memories = made.memorise(tiny_batch.images)
    alone, beside = made.detect(memories), made.detect(memories, None, noised.queries)
    assert alone.extra == ()
    for without, along, extra in zip(alone.layers, beside.layers, beside.extra, strict=True):
        torch.testing.assert_close(without.boxes, along.boxes)
        torch.testing.assert_close(without.logits, along.logits)
        assert extra.boxes.shape == noised.queries.boxes.shape


@pytest.mark.parametrize("changes", [{}, LEARNED])
def test_a_group_does_not_depend_on_another(
    changes: dict[str, object], noised: DenoisingQueries, tiny_model: Models, tiny_batch: Batch
) -> None:
    made = network(tiny_model(**changes)).train()
    memories = made.memorise(tiny_batch.images)
    before = made.detect(memories, None, noised.queries).extra
    noised.queries.boxes[:, 6:] = torch.rand(3, 6, 4) * 0.5 + 0.2
    after = made.detect(memories, None, noised.queries).extra
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(old.boxes[:, :6], new.boxes[:, :6])
        assert not torch.allclose(old.boxes[:, 6:], new.boxes[:, 6:])


def test_a_query_starts_as_the_token_at_its_place_would(tiny_model: Models, tiny_batch: Batch) -> None:
    made = network(tiny_model())
    memory = made.memorise(tiny_batch.images).detection
    anchors = made.geometry.anchors(memory.select([8]))
    own, _, _ = made.detector.queries(memory)
    at = made.detector.queries.at(anchors[:, [0, 9, 63]], memory)
    features = made.detector.queries.norm(made.detector.queries.project(memory.select([8]).tokens))
    torch.testing.assert_close(at.content, features[:, [0, 9, 63]])
    assert own.content.shape[-1] == at.content.shape[-1]


def test_losses_by_hand(noised: DenoisingQueries) -> None:
    torch.manual_seed(1)
    boxes, logits = torch.rand(3, 12, 4) * 0.3 + 0.3, torch.randn(3, 12)
    output = DetectionOutput((Detections(boxes, logits),), None, None, (Detections(boxes, logits),))
    (terms,) = denoising_losses(output, noised, 4.0, GROUPS)
    expected = dict.fromkeys(("class", "l1", "giou"), 0.0)
    for b in range(3):
        for m in range(12):
            if not noised.real[b, m]:
                continue
            near = bool(noised.near[b, m])
            p = float(logits[b, m].sigmoid())
            p = p if near else 1 - p
            expected["class"] += -(0.25 if near else 0.75) * (1 - p) ** 2 * float(torch.tensor(p).log()) / (4 * GROUPS)
            if near:
                true = noised.boxes[b, m]
                expected["l1"] += float((boxes[b, m] - true).abs().sum()) / (4 * GROUPS)
                pair = [box_convert(each[None], "cxcywh", "xyxy") for each in (boxes[b, m], true)]
                overlap = generalized_box_iou(*pair)
                expected["giou"] += float(1 - overlap) / (4 * GROUPS)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("changes", [{}, LEARNED])
def test_they_are_a_switch_of_training_alone(changes: dict[str, object], tiny_model: Models, tiny_batch: Batch) -> None:
    config = tiny_model(**changes)
    made = network(config)
    names: list[set[str]] = []
    for groups in (0, GROUPS):
        objective = SupervisedLoss(made, TrainConfig(mode="parallel", denoising=groups), torch.ones(2)).train()
        loss, terms = objective(tiny_batch, image_generators(0, 0, 0, 3))
        assert bool(loss.isfinite())
        names.append(set(terms))
    layers = {f"denoising{layer}/{name}" for layer in (0, 1) for name in ("class", "l1", "giou")}
    assert names[1] - names[0] == layers
    assert set(objective.state_dict()) == {f"network.{name}" for name in CellDETR(config).state_dict()}


@pytest.mark.parametrize("changes", [{}, LEARNED])
def test_a_batch_without_a_nucleus_has_the_same_terms(
    changes: dict[str, object], tiny_model: Models, tiny_batch: Batch
) -> None:
    """Processes add up their terms: each must have all."""
    objective = SupervisedLoss(network(tiny_model(**changes)), TrainConfig(denoising=1), torch.ones(2)).train()
    full = objective(tiny_batch, image_generators(0, 0, 0, 3))[1]
    loss, empty = objective(without_nuclei(tiny_batch), image_generators(0, 0, 0, 3))
    loss.backward()
    assert list(full) == list(empty)
    assert float(empty["denoising1/class"]) == 0.0
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in objective.parameters())
