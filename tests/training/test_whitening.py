"""Whitened content: against scikit-learn's PCA, in a run, and where it makes no sense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from celldetr.api import load_model
from celldetr.boxes import normalise_boxes
from celldetr.config import Recipe, parse
from celldetr.errors import InputError, UntypedWarning
from celldetr.model.celldetr import CellDETR
from celldetr.training.data import load_data
from celldetr.training.loop import train
from celldetr.training.pretraining import ContrastiveObjective
from celldetr.training.trainer import TrainingLoss
from celldetr.training.whitening import IMAGES, images_with_cells, whiten, whitening
from helpers.states import assert_same_state

Recipes = Callable[..., Recipe]
FEATURES = {"content": "features", "level_norm": "layer", "residual_start": "zero"}


def test_components_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 20)) @ rng.normal(size=(20, 20)) + 5
    weight, bias = whitening(x, 7)
    ours = x @ weight.numpy().T + bias.numpy()
    theirs = PCA(7, whiten=True).fit_transform(StandardScaler().fit_transform(x))
    assert np.allclose(np.abs(np.corrcoef(ours.T, theirs.T)[:7, 7:]), np.eye(7), atol=1e-6)
    assert np.allclose(np.cov(ours.T, bias=True), np.eye(7), atol=1e-8)
    assert np.allclose(ours.mean(0), 0, atol=1e-8)


@pytest.mark.parametrize("cells", [1, 2, 5])
def test_few_cells_and_constant_features_are_no_reason_for_infinities(cells: int) -> None:
    x = np.random.default_rng(1).normal(size=(cells, 12))
    x[:, 3] = 4.0
    weight, bias = whitening(x, 8)
    assert bool(weight.isfinite().all())
    assert float((torch.from_numpy(x) @ weight.T + bias).abs().max()) < 4
    assert (weight[:, 3] == 0).all()


@pytest.mark.parametrize("cells", [40, 120, 400])
def test_cells_that_were_not_looked_at_have_no_huge_components(cells: int) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(cells + 2000, 256)) / np.arange(1, 257) ** 0.5
    weight, bias = whitening(x[:cells], 128)
    others = (torch.from_numpy(x[cells:]) @ weight.T + bias).var(0)
    assert float(others.mean()) < 3
    assert int((others < 1e-9).sum()) == max(0, 128 - cells + 1)


def test_images_are_spread_and_those_without_a_cell_left_out(tiny_recipe: Recipes) -> None:
    samples = list(load_data(tiny_recipe()).samples)
    full = [sample for sample in samples if len(sample)]
    assert 0 < len(full) < len(samples)
    empty = next(sample for sample in samples if not len(sample))
    assert images_with_cells(samples) == full
    sparse = [empty] * 333 + full
    assert images_with_cells(sparse[:-1]) == full[:1]
    assert len(images_with_cells(full * 99)) == IMAGES


@pytest.mark.slow
def test_an_interrupted_run_is_not_whitened_again(
    tiny_recipe: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celldetr.training.pretraining.VIEWS", 4)
    monkeypatch.setattr(ContrastiveObjective, "draw", lambda self, folder: None)
    recipe = tiny_recipe(FEATURES, "", objective="contrastive", contrastive={"start": "whitened"}, steps=3)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(recipe, whole, device="cpu")
    train(recipe, cut, device="cpu", stop_at=1)
    train(recipe, cut, device="cpu", resume=True)
    assert_same_state(whole, cut)


def test_a_run_begins_with_whitened_content(
    tiny_recipe: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contents of all training cells are decorrelated in the first validation, before anything is learned."""
    seen: list[np.ndarray] = []

    def baseline(objective: ContrastiveObjective, average: TrainingLoss) -> None:
        assert average.network.training is False
        for network in (objective.loss.network.eval(), average.network):
            read, contents = network.representer.look, []
            for sample in objective.data.samples:
                height, width = sample.image.shape[:2]
                boxes = normalise_boxes(torch.from_numpy(sample.boxes).float(), width, height)
                memory = network.memorise(torch.tensor(sample.image).permute(2, 0, 1)[None]).representation
                contents.append(read(boxes[None], memory)[0].detach().numpy())
            seen.append(np.concatenate(contents))
        objective.loss.network.train()

    monkeypatch.setattr("celldetr.training.pretraining.VIEWS", 4)
    monkeypatch.setattr(ContrastiveObjective, "baseline", baseline)
    monkeypatch.setattr(ContrastiveObjective, "draw", lambda self, folder: None)
    training = {"objective": "contrastive", "contrastive": {"start": "whitened"}, "steps": 1}
    train(tiny_recipe(FEATURES, "", **training), tmp_path / "run", device="cpu")
    assert np.array_equal(*seen)
    assert np.allclose(seen[0].mean(0), 0, atol=1e-2)
    # n cells have n - 1 components; turned, they are a projection.
    spread = np.linalg.svd(seen[0] / np.sqrt(len(seen[0])), compute_uv=False)
    assert np.allclose(spread[spread > 0.5], 1, atol=0.05)
    assert (spread > 0.5).sum() == min(len(seen[0]) - 1, seen[0].shape[1])

    with pytest.warns(UntypedWarning):
        assert load_model(tmp_path / "run").network.config.content == "features"
    again = tiny_recipe(FEATURES, tmp_path / "run", **training)
    with pytest.raises(InputError, match="start='whitened' would replace what init="):
        train(again, tmp_path / "again", device="cpu")
    assert not (tmp_path / "again").exists()


def test_content_without_features_cannot_be_whitened(tiny_recipe: Recipes) -> None:
    recipe = tiny_recipe(FEATURES, "", objective="contrastive", contrastive={"start": "whitened"})
    values = recipe.model_dump(mode="json")
    values["model"]["content"] = "size"
    with pytest.raises(InputError, match=r"use model\.content=features"):
        parse(Recipe, values, "here")
    with pytest.raises(ValueError, match="made from their size"):
        whiten(CellDETR(tiny_recipe().model), [], torch.device("cpu"))
