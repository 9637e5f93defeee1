"""Fine-tuning: what starts from where, what moves and what does not, what is held out, and that a cut run goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from celldetr.config import ModelConfig, Recipe, TrainConfig
from celldetr.data.dataset import Batch, TrainingSet
from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import load_checkpoint, save_familiarity
from celldetr.model.familiarity import Familiarity
from celldetr.model.hub import DEFAULT_MODEL
from celldetr.model.warm_start import start_from, start_note
from celldetr.recipes import load_recipe
from celldetr.training.hold_out import hold_out
from celldetr.training.loop import train
from celldetr.training.optim import build_optimizer
from celldetr.training.supervised import SupervisedLoss
from celldetr.training.trainer import image_generators
from celldetr.training.validation import validate_labelled
from helpers.states import assert_same_state

Recipes = Callable[..., Recipe]
Models = Callable[..., ModelConfig]
FROZEN = ["backbone", "encoder", "detector"]
SOME = {"freeze": FROZEN, "labels": "some", "mode": "parallel_jittered"}


def test_a_frozen_run_moves_the_head_alone_and_goes_on_as_if_uncut(
    start: Path, tmp_path: Path, tiny_recipe: Recipes
) -> None:
    recipe = tiny_recipe({"dropout": 0.1}, start, **SOME, validate_every=4)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(recipe, whole, device="cpu")
    train(recipe, cut, device="cpu", stop_at=2)
    torch.manual_seed(12345)
    train(recipe, cut, device="cpu", resume=True)
    assert_same_state(whole, cut)

    before = load_checkpoint(start).network.state_dict()
    checkpoint = load_checkpoint(whole / "model")
    moved = {n.partition(".")[0] for n, v in checkpoint.network.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == {"representer", "type_head"}
    assert checkpoint.card.threshold == 0.3  # the start's: partly labelled images cannot say better
    assert {"found", "f1_type_mean", "f1_round"} <= checkpoint.card.metrics["validation"].keys()


def test_a_run_for_outlines_alone_changes_nothing_else(start: Path, tmp_path: Path, tiny_recipe: Recipes) -> None:
    alone = {"freeze": [*FROZEN, "representer"], "w_type": 0, "lr": 1e-2, "validate_every": 2}
    recipe = tiny_recipe({"outlines": True, "types": ["oval", "round"]}, start, **alone)
    assert recipe.training.outlines_only
    source = recipe.train[0].model_copy(update={"types": {"round": "round", "long": ""}})
    recipe = recipe.model_copy(update={"train": (source,), "validation": (source,), "name": "other"})
    with pytest.raises(InputError, match="no training image has masks"):
        train(recipe, tmp_path / "run", device="cpu")
    path = tmp_path / "data" / "all.json"
    content = json.loads(path.read_text())
    for each in content["annotations"]:
        x, y, w, h = each["bbox"]
        each["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    path.write_text(json.dumps(content))
    known = np.random.default_rng(0).normal(size=(1200, load_checkpoint(start).card.config.embedding_dim))
    familiarity = Familiarity.of_training(known.astype(np.float16), np.arange(1200) // 10)
    assert familiarity is not None
    save_familiarity(start, familiarity)
    first, made = load_checkpoint(start), load_checkpoint(train(recipe, tmp_path / "run", device="cpu"))
    before = first.network.state_dict()
    moved = {
        n.partition(".")[0]
        for n, v in made.network.state_dict().items()
        if n not in before or not torch.equal(v, before[n])
    }
    assert moved == {"outliner"}
    assert float(made.network.outliner.radii.weight.detach().abs().max()) > 0
    assert (made.card.name, made.card.threshold, made.card.recipe) == ("start", 0.3, first.card.recipe)
    assert (made.card.config.outlines, first.card.config.outlines) == (True, False)
    assert [each["name"] for each in made.card.training_data] == ["discs"]
    assert 0 < made.card.metrics["outlines"]["median_mask_iou"] < 1
    assert made.familiarity is not None
    for name, values in familiarity.tensors().items():
        assert torch.equal(made.familiarity.tensors()[name], values)
    with pytest.raises(InputError, match=r"leave model\.types as init has them"):
        train(tiny_recipe({"outlines": True}, start, **alone), tmp_path / "other", device="cpu")
    with pytest.raises(ValidationError, match=r"leaves nothing to learn; set w_type or model\.outlines"):
        tiny_recipe({"outlines": True}, start, **alone, w_outline=0)


def test_types_of_the_same_name_keep_their_rows(tiny_model: Models) -> None:
    torch.manual_seed(0)
    source = CellDETR(tiny_model(types=["a", "b", "c"]))
    torch.manual_seed(1)
    network = CellDETR(tiny_model(types=["c", "new", "a"]))
    fresh = network.type_head.weight[1].detach().clone()
    assert start_from(network, source) == ()
    assert torch.equal(network.type_head.weight[[0, 2]], source.type_head.weight[[2, 0]])
    assert torch.equal(network.type_head.bias[[0, 2]], source.type_head.bias[[2, 0]])
    assert torch.equal(network.type_head.weight[1], fresh)
    others = {n: v for n, v in source.state_dict().items() if not n.startswith("type_head")}
    assert all(torch.equal(network.state_dict()[name], value) for name, value in others.items())


def test_weights_that_do_not_fit_are_new_but_cannot_be_frozen(
    start: Path, tmp_path: Path, tiny_recipe: Recipes, tiny_model: Models
) -> None:
    torch.manual_seed(0)
    source, larger = CellDETR(tiny_model()), CellDETR(tiny_model(representation_layers=3))
    assert {name.rpartition(".")[0].split(".")[:3][-1] for name in start_from(larger, source)} == {"2"}
    with pytest.raises(InputError, match=r"encoder has weights that .*start' does not have"):
        train(tiny_recipe({"encoder_layers": 2}, start, **SOME), tmp_path / "run", device="cpu")


def test_what_of_a_start_does_not_fit_is_told(
    start: Path, tmp_path: Path, tiny_recipe: Recipes, tiny_model: Models
) -> None:
    source, same = CellDETR(tiny_model()), CellDETR(tiny_model())
    assert start_note(same, source, start_from(same, source), "old") == ""
    other = CellDETR(tiny_model(representation_layers=3, constrained=False))
    note = start_note(other, source, start_from(other, source), "old")
    assert re.match(r"init='old': \d+ of \d+ tensors are new, in representer; it was trained with", note)
    assert note.endswith("model.constrained=True, now it is False")
    group = CellDETR(tiny_model(level_norm="group"))  # its weights have the sizes of those of LayerNorm
    note = start_note(group, source, start_from(group, source), "old")
    assert note == "init='old': it was trained with model.level_norm=layer, now it is group"
    heads = CellDETR(tiny_model(heads=2, points=8))  # as many offsets
    assert "model.heads=4, now it is 2" in start_note(heads, source, start_from(heads, source), "old")
    larger = CellDETR(tiny_model(d_model=64))
    with pytest.raises(InputError, match=r"most weights of its encoder do not fit \(d_model 32 there, 64 here\)"):
        start_note(larger, source, start_from(larger, source), "old")
    told: list[str] = []
    recipe = tiny_recipe({"margin": 1.5}, start, steps=2, validate_every=2)
    train(recipe, tmp_path / "run", device="cpu", listener=lambda progress: told.append(progress.warning))
    assert "now it is 1.5" in told[0]
    assert told[1] == ""


def test_a_run_that_learns_no_types_has_none(tmp_path: Path, tiny_recipe: Recipes) -> None:
    train(tiny_recipe(w_type=0.0, steps=2, validate_every=2), tmp_path / "boxes", device="cpu")
    checkpoint = load_checkpoint(tmp_path / "boxes" / "model")
    assert not checkpoint.card.types_trained
    assert checkpoint.network.config.types == ("untyped",)


def objective(config: ModelConfig, **training: object) -> SupervisedLoss:
    torch.manual_seed(0)
    made = SupervisedLoss(CellDETR(config), TrainConfig.model_validate(training), torch.ones(len(config.types)))
    return made.train()


def run(made: SupervisedLoss, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    return made(batch, image_generators(0, 0, 0, len(batch.images)))


@pytest.mark.parametrize(
    ("freeze", "mode", "learns", "terms"),
    [
        (FROZEN, "parallel", {"representer", "type_head"}, {"representation0", "representation1"}),
        (FROZEN, "mixed", {"representer", "type_head"}, {"representation0", "representation1"}),
        ([*FROZEN, "representer"], "sequential", {"type_head"}, {"representation0", "representation1"}),
        (["backbone"], "mixed", {"encoder", "detector", "representer", "type_head"}, None),
        (["backbone", "encoder"], "mixed", {"detector", "representer", "type_head"}, None),
        (["detector"], "mixed", {"backbone", "projections", "encoder", "representer", "type_head"}, None),
    ],
)
def test_what_is_frozen_has_no_gradient_and_no_place_in_the_optimiser(
    freeze: list[str], mode: str, learns: set[str], terms: set[str] | None, tiny_model: Models, tiny_batch: Batch
) -> None:
    made = objective(tiny_model(dropout=0.1), freeze=freeze, mode=mode)
    loss, found = run(made, tiny_batch)
    loss.backward()
    named = dict(made.network.named_parameters())
    assert {name.partition(".")[0] for name, p in named.items() if p.grad is not None} == learns
    inside = {id(p) for group in build_optimizer(made.network, made.config).param_groups for p in group["params"]}
    assert inside == {id(p) for p in named.values() if p.requires_grad}
    detects = {"layer0", "layer1", "proposals", "representation0", "representation1"}
    assert {name.partition("/")[0] for name in found} == (terms or detects)
    modules = [
        m for name in learns ^ {n.partition(".")[0] for n in named} for m in made.network.get_submodule(name).modules()
    ]
    assert not any(module.training for module in modules)
    assert made.network.type_head.training


def test_the_head_has_its_own_rate(tiny_model: Models) -> None:
    network = CellDETR(tiny_model())
    groups = build_optimizer(network, TrainConfig(lr=1e-4, backbone_lr=1e-5, head_lr=1e-2)).param_groups
    assert [group["peak"] for group in groups] == [1e-4, 1e-5, 1e-2]
    assert {id(p) for p in groups[2]["params"]} == {id(p) for p in network.type_head.parameters()}
    assert len({id(p) for group in groups for p in group["params"]}) == sum(len(group["params"]) for group in groups)


def sample(name: str, types: list[int], group: str = "", names: tuple[str, ...] = ("a", "b")) -> Sample:
    rng = np.random.default_rng(len(types))
    points = rng.uniform(10, 90, (len(types), 2)).astype(np.float32)
    boxes = np.concatenate([points - 4, points + 4], axis=1)
    image = np.full((100, 100, 3), 200, dtype=np.uint8)
    return Sample(name, image, 0.5, boxes, np.array(types, dtype=np.int64), names, points, group or name)


def test_patients_are_held_out_before_images_and_images_before_cells() -> None:
    many = [sample(f"{p}{i}", [0, 1, 0], group=f"p{p}") for p in range(6) for i in range(3)]
    parts = hold_out(many, [1.0] * 18, 0.2, 0, whole_images=False)
    assert {s.group for s in parts.held_out}.isdisjoint({s.group for s in parts.samples})
    assert len(parts.held_out) + len(parts.samples) == 18
    assert parts.apart == "1 of 6 patients or slides of the training data"
    few = [sample(str(i), [0, 1, 0], group="p") for i in range(5)]
    parts = hold_out(few, [1.0, 2, 3, 4, 5], 0.2, 0, whole_images=False)
    assert len(parts.held_out) == 1
    assert parts.weights == [w for w, s in zip([1.0, 2, 3, 4, 5], few, strict=True) if s is not parts.held_out[0]]
    assert "images" in parts.apart


def test_the_share_held_out_is_about_a_fifth_though_types_are_rare() -> None:
    """Types b and c are in half of the images each: to hold out all of them would take three of the six."""
    names = ("a", "b", "c")
    images = [sample(str(i), [0] * 20 + [1 + i % 2], names=names) for i in range(6)]
    images += [sample("small", [0, 1, 2], names=names)]
    for seed in range(5):
        parts = hold_out(images, [1.0] * 7, 0.2, seed, whole_images=True)
        held = sum(len(each) for each in parts.held_out)
        assert 0.1 < held / sum(len(each) for each in images) < 0.3
        assert {kind for each in parts.samples for kind in each.types.tolist()} == {0, 1, 2}


def test_images_of_unknown_patients_are_not_called_patients() -> None:
    parts = hold_out([sample(str(i), [0, 1, 0]) for i in range(8)], [1.0] * 8, 0.2, 0, whole_images=False)
    assert parts.apart == "2 of 8 images of the training data"


def test_single_cells_are_held_out_of_each_type_and_from_training() -> None:
    one = sample("x", [0] * 10 + [1] * 2 + [-1] * 3)
    parts = hold_out([one], [1.0], 0.2, 3, whole_images=False)
    (kept,), (held,) = parts.samples, parts.held_out
    assert np.bincount(held.types).tolist() == [2, 1]
    assert np.bincount(kept.types + 1).tolist() == [3, 8, 1]
    everything = np.concatenate([kept.points, held.points])
    assert {tuple(p) for p in everything} == {tuple(p) for p in one.points}
    assert "cells, in the images of those trained on" in parts.apart
    again = hold_out([one], [1.0], 0.2, 3, whole_images=False)
    assert np.array_equal(again.held_out[0].points, held.points)


def test_what_cannot_be_held_out_is_refused() -> None:
    with pytest.raises(InputError, match="type 'b': 1 labelled cell, expected at least 2"):
        hold_out([sample("x", [0, 0, 1])], [1.0], 0.2, 0, whole_images=False)
    with pytest.raises(InputError, match="1 labelled image: none can be spared"):
        hold_out([sample("x", [0, 0, 1, 1])], [1.0], 0.2, 0, whole_images=True)
    with pytest.raises(InputError, match="2 labelled images: none can be spared"):  # each has a type of its own
        hold_out([sample("x", [0, 0]), sample("y", [1, 1])], [1.0, 1.0], 0.2, 0, whole_images=True)


def test_crops_are_drawn_around_labelled_cells(tiny_recipe: Recipes) -> None:
    lonely = sample("x", [-1, -1, -1, 1])
    empty = sample("y", [])
    config = tiny_recipe().augment.model_copy(update={"crop": 20, "scale": (0.8, 1.25)})
    crops = TrainingSet([lonely, empty], config, 0, 100, around_cells=True)
    assert all(1 in crop.targets.types.tolist() for crop in crops)
    plain = TrainingSet([lonely, empty], config, 0, 100)
    assert not all(1 in crop.targets.types.tolist() for crop in plain)
    centres = torch.cat([crop.targets.boxes[crop.targets.types == 1, :2] for crop in crops])
    assert float(centres.std(0).min()) > 0.15  # anywhere in the crop, not always in its middle


def test_unlabelled_nuclei_do_not_count_in_validation(start: Path, tiny_recipe: Recipes) -> None:
    """What a detector finds beside the labels changes nothing; a labelled nucleus that it does not find does."""
    from celldetr.model.output import TileCells

    class Fixed:
        types = ("a", "b")

        def __init__(self, xy: list[tuple[float, float]], kinds: list[int]) -> None:
            self.xy, self.kinds = np.array(xy, np.float32), kinds

        def predict_tiles(self, tiles: object, least_score: float | None = None) -> list[TileCells]:
            n = len(self.xy)
            boxes = np.concatenate([self.xy - 4, self.xy + 4], axis=1)
            return [
                TileCells(
                    boxes,
                    np.full(n, 0.9, np.float32),
                    np.eye(2, dtype=np.float32)[self.kinds],
                    np.zeros((n, 4), np.float16),
                )
            ]

    labelled = sample("x", [0, 1, 1])
    xy = [tuple(p) for p in labelled.points.tolist()]
    exact = validate_labelled(Fixed(xy, [0, 1, 0]), [labelled], 0.5)  # type: ignore[arg-type]
    extra = validate_labelled(Fixed([*xy, (1.0, 1.0), (99.0, 1.0)], [0, 1, 0, 0, 1]), [labelled], 0.5)  # type: ignore[arg-type]
    missed = validate_labelled(Fixed(xy[:2], [0, 1]), [labelled], 0.5)  # type: ignore[arg-type]
    assert exact == extra
    assert (exact["found"], exact["f1_a"]) == (1.0, pytest.approx(2 / 4))  # TP 1, and one b called a, which weighs 2
    assert missed["found"] == pytest.approx(2 / 3)
    assert missed["f1_b"] == pytest.approx(2 / 3)


def test_settings_that_cannot_be_meant_are_refused(tiny_recipe: Recipes) -> None:
    with pytest.raises(ValueError, match=r"freeze .*encoder, detector missing"):
        TrainConfig.model_validate({"labels": "some", "freeze": ["backbone"]})
    with pytest.raises(ValueError, match="keeps weights that init has to name"):
        tiny_recipe(freeze=["backbone"])


@pytest.mark.parametrize("name", ["finetune", "finetune-all"])
def test_a_recipe_takes_the_network_of_its_start(name: str) -> None:
    recipe = load_recipe(name, ["model.types=[x]"])
    start = load_checkpoint_config(DEFAULT_MODEL)
    assert recipe.model == start.model_copy(update={"types": ("x",)})
    changed = load_recipe(name, ["model.types=[x]", "model.dropout=0.3"])
    assert changed.model.dropout == 0.3
    assert changed.model.mpp == start.mpp


def load_checkpoint_config(name: str) -> ModelConfig:
    from celldetr.model.checkpoint import read_card
    from celldetr.model.hub import find_model

    return read_card(find_model(name)).config


@pytest.mark.parametrize("kinds", [1, 20])
def test_one_type_or_twenty(kinds: int, start: Path, tmp_path: Path, tiny_recipe: Recipes) -> None:
    """The class of the data set becomes one of K types; the others have no cell."""
    names = ["round", *(f"t{i}" for i in range(kinds - 1))]
    recipe = tiny_recipe({"types": names}, start, **SOME, hold_out=0.3, steps=2).model_copy(update={"validation": ()})
    folder = train(recipe, tmp_path / "run", device="cpu")
    checkpoint = load_checkpoint(folder)
    assert checkpoint.card.config.types == tuple(names)
    assert checkpoint.network.type_head.weight.shape[0] == kinds
    assert "in the images of those trained on" in checkpoint.card.metrics["validation"]["held_out"]
