"""Every mode of training: a finite loss, and gradients where they belong and nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert

from celldetr.config import ModelConfig, TrainConfig
from celldetr.data.dataset import Batch, Targets
from celldetr.model.celldetr import CellDETR
from celldetr.model.layers import DeformableAttention
from celldetr.outlines import RADII, outline_points
from celldetr.training.criterion import Losses, sigmoid_focal
from celldetr.training.processes import normaliser
from celldetr.training.supervised import SupervisedLoss
from celldetr.training.trainer import image_generators, random_places
from helpers.targets import with_types, without_nuclei

Models = Callable[..., ModelConfig]
MODES = ["sequential", "parallel", "parallel_jittered", "mixed", "positive_negative"]


def objective(config: ModelConfig, **training: object) -> SupervisedLoss:
    torch.manual_seed(0)
    network = CellDETR(config)
    with torch.no_grad():  # where sampling starts, much has no gradient yet
        for name, parameter in network.named_parameters():
            if "backbone" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    made = SupervisedLoss(network, TrainConfig.model_validate(training), torch.ones(len(config.types)))
    return made.train()


def run(made: SupervisedLoss, batch: Batch, seed: int = 0) -> tuple[Tensor, Losses]:
    loss, terms = made(batch, image_generators(seed, 0, 0, len(batch.images)))
    return loss, terms


def of_unknown_types(batch: Batch) -> Batch:
    return with_types(batch, [torch.full_like(each.types, -1) for each in batch.targets])


def without_gradient(made: SupervisedLoss) -> list[str]:
    """Trainable parameters that learn nothing. A key's bias moves all weights of a softmax alike and never does."""
    return [
        name
        for name, parameter in made.network.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not float(parameter.grad.abs().sum()))
        if not name.endswith("k_proj.bias")
    ]


@pytest.mark.parametrize(("mode", "attention"), itertools.product(MODES, ["none", "after_first"]))
def test_every_mode_trains_every_part(mode: str, attention: str, tiny_model: Models, tiny_batch: Batch) -> None:
    made = objective(tiny_model(self_attention=attention), mode=mode)
    loss, terms = run(made, tiny_batch)
    loss.backward()
    assert bool(loss.isfinite())
    assert {name.partition("/")[0] for name in terms} == {
        "layer0",
        "layer1",
        "proposals",
        "representation0",
        "representation1",
    }
    assert without_gradient(made) == []


@pytest.mark.parametrize(("mode", "attention"), itertools.product(MODES, ["none", "after_first"]))
def test_a_batch_without_any_nucleus(mode: str, attention: str, tiny_model: Models, tiny_batch: Batch) -> None:
    made = objective(tiny_model(self_attention=attention), mode=mode)
    loss, terms = run(made, without_nuclei(tiny_batch))
    loss.backward()
    assert bool(loss.isfinite())
    assert float(terms["representation1/type"]) == 0.0
    assert float(terms["layer1/class"]) > 0.0
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in made.parameters())


@pytest.mark.parametrize("mode", MODES[:-1])
def test_nuclei_of_unknown_type_train_detection_only(mode: str, tiny_model: Models, tiny_batch: Batch) -> None:
    made = objective(tiny_model(), mode=mode)
    loss, terms = run(made, of_unknown_types(tiny_batch))
    loss.backward()
    assert float(terms["representation1/type"]) == 0.0
    assert float(terms["layer1/l1"]) > 0.0
    idle = {".".join(name.split(".")[:2]) for name in without_gradient(made)}
    assert {name.partition(".")[0] for name in idle} == {"representer", "type_head", "projections"}
    assert "projections.0" in idle  # stride 4, which the detector does not see
    assert "projections.1" not in idle


def test_boxes_far_off_look_like_no_type_whatever_the_cell_is(tiny_model: Models, tiny_batch: Batch) -> None:
    """Of cells of unknown type too; the loss worked out again from what the representation decoder was asked."""
    made = objective(tiny_model(), mode="positive_negative", auxiliary_types=False)
    made.criterion.type_weights = torch.tensor([0.5, 2.0])
    asked = []
    original = made.network.represent
    made.network.represent = lambda *arguments: asked.append(original(*arguments)) or asked[-1]  # type: ignore[method-assign]
    known = float(run(made, tiny_batch)[1]["representation0/type"])
    logits = [asked[0].logits[0, :9].detach().view(3, 3, 2), asked[0].logits[2, :3].detach().view(3, 1, 2)]

    def focal(logit: Tensor, wanted: Tensor) -> Tensor:
        p = torch.where(wanted > 0, logit.sigmoid(), 1 - logit.sigmoid())
        return torch.where(wanted > 0, 0.25, 0.75) * (1 - p) ** 2 * -p.log()

    of_types = torch.tensor(0.0)
    far = torch.tensor(0.0)
    for image, types in zip(logits, (tiny_batch.targets[0].types, tiny_batch.targets[2].types), strict=True):
        for source, weight in ((0, 1.0), (1, 0.5)):
            for cell, kind in enumerate(types.tolist()):
                if kind >= 0:
                    wanted = torch.eye(2)[kind]
                    of_types += (
                        weight * made.criterion.type_weights[kind] * focal(image[source, cell], wanted).sum() / 3
                    )
        far += 0.5 * focal(image[2], torch.zeros(2)).sum() / 4
    assert known == pytest.approx(float(of_types + far), rel=1e-5)
    assert float(run(made, of_unknown_types(tiny_batch))[1]["representation0/type"]) == pytest.approx(
        float(far), rel=1e-5
    )


@pytest.mark.parametrize(
    "changes", [{"queries": "learned", "coordinates": "image", "num_queries": 8}, {"coordinates": "image"}]
)
def test_learned_queries_and_the_papers_coordinates(
    changes: dict[str, object], tiny_model: Models, tiny_batch: Batch
) -> None:
    made = objective(tiny_model(**changes), mode="sequential")
    loss, terms = run(made, tiny_batch)
    loss.backward()
    assert bool(loss.isfinite())
    assert any(name.startswith("proposals") for name in terms) == ("queries" not in changes)
    assert without_gradient(made) == []


def test_one_to_one_proposals(tiny_model: Models, tiny_batch: Batch) -> None:
    made = objective(tiny_model(), dense_queries=0.0)
    terms = run(made, tiny_batch)[1]
    assert float(terms["proposals/class"]) > 0
    assert float(terms["proposals/giou"]) > 0


@pytest.mark.parametrize("mode", ["sequential", "mixed"])
def test_the_type_loss_does_not_reach_the_detector(mode: str, tiny_model: Models, tiny_batch: Batch) -> None:
    made = objective(tiny_model(), mode=mode, w_class=0.0, w_l1=0.0, w_giou=0.0)
    run(made, tiny_batch)[0].backward()
    reached = {name for name, p in made.network.named_parameters() if p.grad is not None and float(p.grad.abs().sum())}
    assert not [name for name in reached if name.startswith("detector")]
    assert {"type_head.weight", "projections.0.0.weight", "backbone.body.conv_stem.weight"} <= reached


def test_the_fast_ways_learn_what_the_plain_ones_do(tiny_model: Models, tiny_batch: Batch) -> None:
    results = []
    for plain in (False, True):
        made = objective(tiny_model(strides=[4, 8, 16, 32]), mode="mixed")
        if plain:
            made.network.backbone._frozen = (made.network.backbone.body,)
            for module in made.network.modules():
                if isinstance(module, DeformableAttention):
                    module.fused = False
        loss, _ = run(made, tiny_batch)
        loss.backward()
        results.append({name: p.grad for name, p in made.network.named_parameters() if p.grad is not None})
    fast, slow = results
    assert fast.keys() == slow.keys()
    largest = max(float(gradient.norm()) for gradient in slow.values())
    for name, gradient in slow.items():
        assert float((fast[name] - gradient).norm()) <= 1e-4 * float(gradient.norm()) + 1e-6 * largest, (
            name
        )  # a bias before a norm


def test_total_is_the_weighted_sum_of_the_terms(tiny_model: Models, tiny_batch: Batch) -> None:
    made = objective(tiny_model(), w_class=3.0, w_l1=0.5, w_giou=7.0, w_type=11.0)
    loss, terms = run(made, tiny_batch)
    weights = {"class": 3.0, "l1": 0.5, "giou": 7.0, "type": 11.0}
    expected = sum(weights[name.split("/")[1]] * float(value) for name, value in terms.items())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_auxiliary_types_are_a_switch(tiny_model: Models, tiny_batch: Batch) -> None:
    terms = run(objective(tiny_model(), auxiliary_types=False), tiny_batch)[1]
    assert [name for name in terms if name.endswith("type")] == ["representation0/type"]


def test_all_chance_is_the_generators(tiny_model: Models, tiny_batch: Batch) -> None:
    made = objective(tiny_model(), mode="mixed")
    first, again, other = (float(run(made, tiny_batch, seed)[0].detach()) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_of_a_cell_that_is_there_twice_neither_copy_sees_the_other(tiny_model: Models, tiny_batch: Batch) -> None:
    """With self-attention, changing the detected boxes must not change what is learned from the true ones."""
    made = objective(tiny_model(self_attention="after_first"), mode="mixed").eval()
    network, seen = made.network, []
    original = network.represent
    network.represent = lambda memories, boxes, origin, blocked: (
        seen.append(  # type: ignore[method-assign]
            (memories, boxes, origin, blocked)
        )
        or original(memories, boxes, origin, blocked)
    )
    run(made, tiny_batch)
    memories, boxes, origin, blocked = seen[0]
    assert boxes.shape == (3, 6, 4)
    moved = boxes.clone()
    moved[0, :3] = boxes[0, :3].flip(0) * 0.9  # the detected half of the first image
    before, after = (original(memories, b, origin, blocked).embeddings[0, 3:] for b in (boxes, moved))
    torch.testing.assert_close(before, after)


def test_what_losses_are_divided_by_is_at_least_one() -> None:
    assert normaliser(0, torch.device("cpu")) == 1.0
    assert normaliser(7, torch.device("cpu")) == 7.0


def test_plain_deformable_detr_trains_every_part(tiny_model: Models, tiny_batch: Batch) -> None:
    levels = (8, 16, 32)
    made = objective(tiny_model(represent="queries", strides=levels, representation_strides=levels), mode="sequential")
    loss, terms = run(made, tiny_batch)
    loss.backward()
    assert {"representation0/type", "representation1/type"} <= set(terms)  # of each decoder layer, by its own matches
    assert not without_gradient(made)


def test_plain_deformable_detr_takes_types_from_the_matched_queries(tiny_model: Models, tiny_batch: Batch) -> None:
    made = objective(tiny_model(represent="queries", dropout=0.0), mode="sequential", class_balance=0.0)
    _, terms = run(made, tiny_batch)
    origin, _ = random_places(tiny_batch.images, image_generators(0, 0, 0, 3))
    detection = made.network.detect(made.network.memorise(tiny_batch.images, origin=origin), origin)
    layer = 0
    found = detection.layers[layer]
    total, known = 0.0, 0
    (pairs,) = made.criterion.match([found], tiny_batch.targets)
    for b, (queries, nuclei) in enumerate(pairs):
        for query, nucleus in zip(queries.tolist(), nuclei.tolist(), strict=True):
            label = int(tiny_batch.targets[b].types[nucleus])
            if label >= 0:
                known += 1
                wanted = torch.eye(2)[label]
                logits = made.network.type_head(detection.contents[layer][b, query]).detach()
                total += float(sigmoid_focal(logits, wanted).sum())
    assert known == 3
    assert float(terms["representation0/type"]) == pytest.approx(total / known, rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_doubtful_labels_weigh_less(mode: str, tiny_model: Models, tiny_batch: Batch) -> None:
    made = objective(tiny_model(), mode=mode)
    sure = [torch.tensor([0.2, 1.0, 0.5]), torch.zeros(0), torch.tensor([0.9])]
    pairs = zip(tiny_batch.targets, sure, strict=True)
    doubtful = Batch(tiny_batch.images, [replace(each, confidence=values) for each, values in pairs])
    assert float(run(made, doubtful)[0]) != float(run(made, tiny_batch)[0])


@pytest.mark.parametrize(("mode", "represent"), [*((mode, "boxes") for mode in MODES), ("sequential", "queries")])
def test_spots_teach_whatever_the_boxes(mode: str, represent: str, tiny_model: Models, tiny_batch: Batch) -> None:
    levels = {"strides": (8, 16, 32), "representation_strides": (8, 16, 32)} if represent == "queries" else {}
    made = objective(tiny_model(represent=represent, **levels), mode=mode, w_composition=2.0, w_type=0.0)
    spots = [torch.tensor([0, -1, 0]), torch.zeros(0, dtype=torch.long), torch.tensor([0])]
    shares = [torch.tensor([[0.3, 0.7]]), torch.zeros(0, 2), torch.tensor([[1.0, 0.0]])]
    unknown = of_unknown_types(tiny_batch)

    def in_spots(each: Targets, spot: Tensor, share: Tensor) -> Targets:
        return replace(each, spots=spot, compositions=share)

    loss, terms = run(made, Batch(unknown.images, list(map(in_spots, unknown.targets, spots, shares))))
    loss.backward()
    assert float(terms["representation1/composition"]) > 0
    assert without_gradient(made) == []
    without = run(made, unknown)[1]
    assert without.keys() == terms.keys()  # the terms are those of the recipe, whatever a batch holds
    assert float(without["representation1/composition"]) == 0.0


@pytest.mark.parametrize("mode", MODES)
def test_outlines_learn_from_masks_and_from_nothing_else(mode: str, tiny_model: Models, tiny_batch: Batch) -> None:
    made = objective(tiny_model(outlines=True), mode=mode, w_class=0.0, w_l1=0.0, w_giou=0.0, w_type=0.0)
    first, *others = tiny_batch.targets
    radii, corners = torch.rand(len(first), RADII) * 0.5 + 0.4, box_convert(first.boxes, "cxcywh", "xyxy")
    masked = replace(first, outlines=torch.from_numpy(outline_points(corners.numpy(), radii.numpy())).float())
    half = replace(masked, outlines=masked.outlines.index_fill(0, torch.tensor([1]), torch.nan))
    for targets, learns in ((masked, True), (half, True), (first, False)):
        made.zero_grad()
        loss, terms = run(made, Batch(tiny_batch.images, [targets, *others]))
        loss.backward()
        assert (0 < float(terms["outline"]) < 1) is learns
        reached = {
            name.partition(".")[0] for name, p in made.network.named_parameters() if p.grad is not None and p.grad.any()
        }
        assert ("outliner" in reached) is learns
        assert reached <= {"outliner"}  # no feature learns from them
