"""Two processes do what one does: the same gradients, and a run that goes from one to two and back."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from celldetr.config import DataSource, Recipe
from celldetr.data.dataset import Batch
from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.warm_start import start_from
from celldetr.training.data import load_data
from celldetr.training.logs import read_log
from celldetr.training.loop import build, train
from celldetr.training.processes import can_train, share, start_fabric
from celldetr.training.state import STATE_FILE
from celldetr.training.trainer import Trainer
from helpers.two_processes import first_gradients, gradients_and_steps, in_two_processes

Recipes = Callable[..., Recipe]


@pytest.mark.parametrize(("precision", "expected"), [("bf16", True), ("32", False)])
def test_bfloat16_is_for_what_is_computed_and_not_for_labels(
    precision: str, expected: bool, tiny_recipe: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(precision=precision)
    objective, _ = build(recipe, load_data(recipe), torch.device("cpu"))
    trainer = Trainer(objective.loss, recipe.training, start_fabric("cpu", 1))
    trainer.distribute()
    seen: list[tuple[bool, Batch]] = []

    def forward(batch: Batch, generators: object, measure: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seen.append((torch.is_autocast_enabled("cpu"), batch))
        return objective.loss.network.type_head.weight.sum(), {}

    monkeypatch.setattr(objective.loss, "forward", forward)
    batch = next(trainer.batches(objective.dataset(8), objective.collate))
    trainer.backward(0, batch)
    ((is_autocast, received),) = seen
    assert is_autocast is expected
    for one, other in zip(received.targets, batch.targets, strict=True):
        assert torch.equal(one.boxes, other.boxes)  # Fabric's own would round them to a pixel of a crop of 256


def test_a_device_without_gradients_is_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> torch.Tensor:
        raise NotImplementedError("aten::grid_sampler_2d_backward")

    assert can_train(torch.device("cpu"))
    monkeypatch.setattr(torch.nn.functional, "grid_sample", missing)
    assert not can_train(torch.device("cpu"))


SUPERVISED: dict[str, dict[str, object]] = {"steps": 6, "batch_size": 4, "validate_every": 100, "warmup": 3}
CONTRASTIVE: dict[str, tuple[dict[str, object], dict[str, object]]] = {  # changes of the network and of the objective
    "two": ({}, {"views": "two"}),
    "released": ({}, {"views": "released"}),
    "whitened": ({"content": "features", "residual_start": "zero"}, {"start": "whitened"}),
    "both": ({"self_attention": "after_first"}, {"views": "two", "detection": "both", "debias": 0.2}),
    "letter": ({"self_attention": "after_first"}, {"views": "released", "negatives": "image", "border": 0}),
}


@pytest.mark.slow
def test_two_processes_are_one(start: Path, tmp_path: Path, tiny_recipe: Recipes, soft_set: Path) -> None:
    """All of a network, its head alone, doubtful types and spots, and pretraining; of two crops a process, one of which
    may be without a nucleus."""
    partly = {"freeze": ["backbone", "encoder", "detector"], "mode": "parallel_jittered"}
    recipes = {"all": tiny_recipe(**SUPERVISED), "head": tiny_recipe(None, start, **SUPERVISED | partly)}
    source = (DataSource(card=str(soft_set), split="all"),)
    soft = tiny_recipe(**SUPERVISED, w_composition=1.0, mode="mixed")
    recipes["doubtful"] = soft.model_copy(update={"train": source, "validation": source})
    for name, (model, contrastive) in CONTRASTIVE.items():
        recipes[name] = tiny_recipe(model, objective="contrastive", batch_size=4, contrastive=contrastive)
    runs = []
    for name, recipe in recipes.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        resumed = name in ("all", "head")  # of the others, the gradients are compared
        if resumed:
            train(recipe, folder / "whole", device="cpu")
            train(recipe, folder / "cut", device="cpu", stop_at=2)
        runs.append((folder / "recipe.yaml", folder / "two.safetensors", folder / "cut" if resumed else None))
    in_two_processes(gradients_and_steps, runs, 4)
    for name in recipes:
        first_gradients(tmp_path / name / "recipe.yaml", tmp_path / name / "one.safetensors")
        one = same_gradients(tmp_path / name)
        if name in CONTRASTIVE:
            assert {name.partition(".")[0] for name in one} >= {"backbone", "detector", "representer", "head"}
            assert max(float(value.abs().max()) for name, value in one.items() if name.startswith("head")) > 0.001
    for name in ("all", "head"):
        recipe = recipes[name]
        torch.manual_seed(recipe.training.seed)
        network = CellDETR(recipe.model)
        if name == "head":
            start_from(network, load_checkpoint(start).network)
        train(recipe, tmp_path / name / "cut", device="cpu", resume=True)
        same_run(tmp_path / name, network)


def same_gradients(folder: Path) -> dict[str, torch.Tensor]:
    """Compares what one and two processes wrote in ``folder``; returns those of one."""
    one, two = (load_file(folder / f"{name}.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert max(float(gradient.abs().max()) for gradient in one.values()) > 0.01
    for name, gradient in one.items():
        assert float((two[name] - gradient).abs().max()) <= 1e-5 * max(1.0, float(gradient.abs().max())), name
    return one


def same_run(folder: Path, network: CellDETR) -> None:
    """``network`` is what both runs began with."""
    expected, found = (load_file(folder / name / STATE_FILE) for name in ("whole", "cut"))
    assert expected.keys() == found.keys()
    moved = apart = 0.0
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            moved += float((expected[f"network/network.{name}"] - value).square().sum())
            apart += float((expected[f"network/network.{name}"] - found[f"network/network.{name}"]).square().sum())
    # Adam makes steps of full size from gradients that are nothing but rounding: a bias before a normalisation, say.
    assert apart**0.5 < 0.02 * moved**0.5
    losses = [[row["loss"] for row in read_log(folder / name) if row["kind"] == "train"] for name in ("whole", "cut")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_batch_that_cannot_be_shared() -> None:
    assert share(6, 3) == 2
    with pytest.raises(InputError, match="must be a multiple of 4"):
        share(6, 4)


def test_devices_that_are_not_there() -> None:
    with pytest.raises(InputError, match="`devices=0`: expected 1"):
        start_fabric("cpu", 0)


def test_torchrun_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="torchrun started 2 processes here"):
        start_fabric("cpu", 3)


@pytest.mark.parametrize(("system", "start"), [("linux", "fork"), ("darwin", None), ("win32", None)])
def test_workers_are_forked_on_linux_only(
    system: str, start: str | None, tiny_recipe: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(workers=1)
    objective, _ = build(recipe, load_data(recipe), torch.device("cpu"))
    trainer = Trainer(objective.loss, recipe.training, start_fabric("cpu", 1))
    asked: dict[str, object] = {}
    monkeypatch.setattr("celldetr.training.trainer.DataLoader", lambda *_, **options: asked.update(options) or [])
    monkeypatch.setattr(sys, "platform", system)
    assert list(trainer.batches(objective.dataset(8), objective.collate)) == []
    assert asked["multiprocessing_context"] == start


def test_training_data_reach_workers_that_were_not_forked(tiny_recipe: Recipes) -> None:
    recipe = tiny_recipe()
    objective, _ = build(recipe, load_data(recipe), torch.device("cpu"))
    here = objective.dataset(8)
    there = pickle.loads(pickle.dumps(here))
    for i in range(8):
        assert torch.equal(there[i].image, here[i].image)
        assert torch.equal(there[i].targets.boxes, here[i].targets.boxes)
