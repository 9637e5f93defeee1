"""Two processes do what one does: the same gradients, and a run that goes from one to two and back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from celldetr.config import DataSource, Recipe
from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.warm_start import start_from
from celldetr.training.logs import read_log
from celldetr.training.loop import train
from celldetr.training.processes import can_train, normaliser, share, start_fabric
from celldetr.training.state import STATE_FILE
from helpers import two_processes
from helpers.two_processes import first_gradients

Recipes = Callable[..., Recipe]


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Two processes on loopback, one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=240, check=False
    )


def test_bfloat16_is_for_what_is_computed_and_not_for_labels() -> None:
    fabric = start_fabric("bf16", "cpu", 1)
    box, inside = torch.tensor([0.7007, 0.9012, 0.0713, 0.0688]), []

    class Network(torch.nn.Linear):
        def forward(self, boxes: list[torch.Tensor]) -> torch.Tensor:
            inside.extend(boxes)
            return super().forward(boxes[0])

    out = fabric.setup(Network(4, 1))([box])
    assert torch.equal(inside[0], box)  # Fabric's own would round it to a pixel of a crop of 256
    assert torch.equal(out, out.bfloat16().float())  # the product was rounded: autocast is on


def test_a_device_without_gradients_is_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> torch.Tensor:
        raise NotImplementedError("aten::grid_sampler_2d_backward")

    assert can_train(torch.device("cpu"))
    monkeypatch.setattr(torch.nn.functional, "grid_sample", missing)
    assert not can_train(torch.device("cpu"))


def test_two_processes_are_one(start: Path, tmp_path: Path, tiny_recipe: Recipes, soft_set: Path) -> None:
    """All of a network, its head alone, and doubtful types and spots; of two crops a process, one of which may be
    without a nucleus."""
    partly = {"freeze": ["backbone", "encoder", "detector"], "mode": "parallel_jittered"}
    settings = {"steps": 6, "batch_size": 4, "validate_every": 100, "warmup": 3}
    recipes = {"all": tiny_recipe(**settings), "head": tiny_recipe(None, start, **settings | partly)}
    source = (DataSource(card=str(soft_set), split="all"),)
    soft = tiny_recipe(**settings, w_composition=1.0, mode="mixed")
    recipes["doubtful"] = soft.model_copy(update={"train": source, "validation": source})
    arguments: list[object] = []
    for name, recipe in recipes.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        if name != "doubtful":  # its losses are asked about; the steps after the first are the same ones
            train(recipe, folder / "whole", device="cpu")
            train(recipe, folder / "cut", device="cpu", stop_at=2)
        stop = 0 if name == "doubtful" else 4
        arguments += [folder / "recipe.yaml", folder / "cut", stop, folder / "two.safetensors"]
    done = torchrun(two_processes.__file__, *arguments)  # once: each has to import torch
    assert done.returncode == 0, done.stderr[-3000:]
    for name in recipes:
        first_gradients(str(tmp_path / name / "recipe.yaml"), tmp_path / name / "one.safetensors")
        same_gradients(tmp_path / name)
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
            moved += float((expected[f"network/{name}"] - value).square().sum())
            apart += float((expected[f"network/{name}"] - found[f"network/{name}"]).square().sum())
    # Adam makes steps of full size from gradients that are nothing but rounding: a bias before a normalisation, say.
    assert apart**0.5 < 0.02 * moved**0.5
    losses = [[row["loss"] for row in read_log(folder / name) if row["kind"] == "train"] for name in ("whole", "cut")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_batch_that_cannot_be_shared() -> None:
    assert share(6, 3) == 2
    with pytest.raises(InputError, match="must be a multiple of 4"):
        share(6, 4)


def test_devices_that_are_not_there() -> None:
    with pytest.raises(InputError, match="--devices 0: expected 1"):
        start_fabric("32", "cpu", 0)


def test_torchrun_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="torchrun started 2 processes here"):
        start_fabric("32", "cpu", 3)


def test_what_losses_are_divided_by(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert (normaliser(0, cpu), normaliser(7, cpu)) == (1.0, 7.0)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.add_(1))  # the other process' count
    assert (normaliser(0, cpu), normaliser(4, cpu)) == (0.5, 2.5)
