"""A whole run of pretraining: what it leaves, that it resumes bit for bit, on two processes, and what may follow it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from celldetr.api import load_model
from celldetr.cli.predict import note_untyped
from celldetr.config import Recipe
from celldetr.errors import InputError, UntypedWarning
from celldetr.model.checkpoint import load_checkpoint, read_card
from celldetr.model.warm_start import UNTYPED
from celldetr.recipes import load_recipe
from celldetr.training import loop
from celldetr.training.logs import draw_curves, read_log
from celldetr.training.loop import train
from celldetr.training.pretraining import ContrastiveObjective
from celldetr.training.slide_probe import HeldOutCells, probe_slides
from helpers.states import assert_same_state

Recipes = Callable[..., Recipe]
WATCHED = {"alignment", "uniformity", "rank", "rank_projected", "found", "chance"}


@pytest.fixture
def recipes(tiny_recipe: Recipes, monkeypatch: pytest.MonkeyPatch) -> Recipes:
    """Recipes of pretraining, whose validation looks at few views."""
    monkeypatch.setattr("celldetr.training.pretraining.VIEWS", 4)

    def make(model: dict[str, object] | None = None, init: Path | str = "", **training: object) -> Recipe:
        return tiny_recipe(model, init, objective="contrastive", **training)

    return make


@pytest.mark.slow
def test_a_run_leaves_figures_numbers_and_a_model_without_types(
    recipes: Recipes,
    tiny_recipe: Recipes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "draw_curves", draw_curves)
    run = tmp_path / "run"
    train(recipes(validate_every=4), run, device="cpu")
    for name in ("curves.png", "similarity.png", "embedding.png"):
        assert len(np.unique(np.asarray(Image.open(run / name).convert("L")))) > 20
    facts = json.loads((run / "embedding.json").read_text())
    assert facts["cells"] == 9
    assert facts["before_training"]["rank"] > 1
    assert not list(run.glob(".*"))
    rows = read_log(run)
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("validation", 0),
        ("train", 0),
        ("train", 3),
        ("validation", 3),
    ]
    assert {f"embedding/{name}" for name in WATCHED} <= rows[1].keys()
    assert WATCHED | {"loss", "f1_detection", "threshold"} <= rows[3].keys()
    assert "f1_type_mean" not in rows[3]
    assert 0 < rows[1]["contrastive/nce"] < 10
    assert 1 <= rows[3]["rank"] <= 32

    card = read_card(run / "model")
    assert card.config.types == (UNTYPED,)
    assert not card.types_trained
    assert "without types" in card.description
    assert card.recipe["training"]["objective"] == "contrastive"
    with pytest.warns(UntypedWarning, match="calls every cell 'untyped'"):
        model = load_model(run)
    assert model.types == (UNTYPED,)
    assert (model.network.type_head.weight == 0).all()

    note_untyped(str(run))
    assert capsys.readouterr().err.count("\n") == 1
    note_untyped(None)  # the packaged model has types
    assert capsys.readouterr().err == ""

    # Then types: they begin anew, everything else with what was learnt.
    values = tiny_recipe(None, run).model_dump(mode="json")
    (tmp_path / "next.yaml").write_text(yaml.safe_dump(values))
    recipe = load_recipe(tmp_path / "next.yaml", ["training.steps=1", "training.lr=1e-9", "training.ema=0"])
    typed = load_checkpoint(train(recipe, tmp_path / "typed", device="cpu"))
    assert typed.card.types_trained
    assert typed.card.config.types == ("round", "long")
    before, after = load_checkpoint(run / "model").network.state_dict(), typed.network.state_dict()
    same = [name for name in before if name.startswith("representer.") and before[name].ndim > 1]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in same)
    del values["model"]["types"]
    (tmp_path / "none.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=r"was pretrained without types; name those to be learnt"):
        load_recipe(tmp_path / "none.yaml")
    again = load_recipe(tmp_path / "none.yaml", ["training.objective=contrastive"])
    assert again.model.types == (UNTYPED,)


@pytest.mark.slow
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    recipes: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContrastiveObjective, "draw", lambda self, folder: None)
    recipe = recipes({"dropout": 0.1}, validate_every=4)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(recipe, whole, device="cpu")
    train(recipe, cut, device="cpu", stop_at=2)
    torch.manual_seed(12345)
    train(recipe, cut, device="cpu", resume=True)
    assert_same_state(whole, cut)
    first, second = (load_checkpoint(folder / "model") for folder in (whole, cut))
    assert first.card.sha256 == second.card.sha256
    logs = [[row | {"images_per_second": None} for row in read_log(folder)] for folder in (whole, cut)]
    # The cut run has a row for its first and last step before the cut, as the whole one has.
    assert [row for row in logs[0] if row["kind"] == "validation"] == [
        row for row in logs[1] if row["kind"] == "validation"
    ]


def test_a_collapse_is_told_to_who_listens(recipes: Recipes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContrastiveObjective, "draw", lambda self, folder: None)
    told: list[loop.TrainingProgress] = []
    train(recipes(steps=1), tmp_path / "sound", device="cpu", listener=told.append)
    monkeypatch.setattr("celldetr.training.collapse.LEAST_RANK", 1000.0)  # no network is as good as that
    train(recipes(steps=1), tmp_path / "collapsed", device="cpu", listener=told.append)
    assert told[0].warning == ""
    assert "the embeddings have collapsed" in told[1].warning


def held_out(slides: int, images: int, shift: float, seed: int = 0) -> HeldOutCells:
    """Cells of ``slides``, 20 in each of ``images`` images; embeddings move by ``shift`` from slide to slide."""
    rng = np.random.default_rng(seed)
    slide = np.repeat(np.arange(slides), images * 20)
    vectors = rng.normal(size=(len(slide), 6)) + shift * rng.normal(size=(slides, 6))[slide]
    return HeldOutCells(
        vectors.astype(np.float32),
        np.full(len(slide), -1),
        np.array([f"s{i}" for i in slide]),
        np.arange(len(slide)) // 20,
        np.zeros(len(slide), np.float32),
    )


def test_slides_that_differ_are_predicted_and_others_are_not() -> None:
    told, hidden = probe_slides(held_out(4, 3, 3.0)), probe_slides(held_out(4, 3, 0.0))
    assert told is not None
    assert hidden is not None
    assert told.chance == hidden.chance == 0.25
    assert told.apart == "images"
    assert told.accuracy > 0.9
    assert hidden.accuracy == pytest.approx(0.25, abs=0.12)
    single = probe_slides(held_out(3, 1, 3.0))
    assert single is not None
    assert single.apart == "cells"  # telling the image is enough then
    assert probe_slides(held_out(1, 3, 0.0)) is None


@pytest.mark.parametrize("images", [(300, 1, 300, 1), (300, 2, 250, 3), (2, 60, 70, 9)])
def test_images_of_few_cells_do_not_stop_the_slide_probe(images: tuple[int, ...]) -> None:
    """Two slides of two images each."""
    cells, which = held_out(2, 31 * 16, 0.0).take(np.arange(sum(images))), np.repeat(np.arange(4), images)
    for seed in range(4):
        told = probe_slides(replace(cells, images=which, slides=np.array(["a", "b"])[which // 2]), seed)
        assert told is not None
        assert told.apart == "images"


def test_what_says_nothing_of_slides_is_at_chance() -> None:
    told = [probe_slides(held_out(3, 3, 0.0, seed), seed) for seed in range(30)]
    assert np.mean([each.accuracy for each in told if each]) == pytest.approx(1 / 3, abs=0.04)
