"""A whole run: what it leaves, that it continues exactly where it stopped, and what it refuses before it starts."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.optim.swa_utils import AveragedModel

from celldetr.config import AugmentConfig, Recipe
from celldetr.data.dataset import TrainingSet
from celldetr.data.sample import LazySamples, Sample
from celldetr.errors import InputError, OneProcessError
from celldetr.evaluation.image_cells import LOWEST_SCORE, ImageCells, image_cells
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.inference import TilePredictor
from celldetr.model.output import TileCells
from celldetr.training import loop, trainer, validation
from celldetr.training.data import TrainingData, load_data, validation_px
from celldetr.training.logs import draw_curves, read_log
from celldetr.training.loop import TrainingProgress, train
from celldetr.training.state import STATE_FILE
from celldetr.training.supervised import SupervisedObjective
from celldetr.training.trainer import StepSampler
from celldetr.training.validation import validate
from helpers.states import assert_same_state

Recipes = Callable[..., Recipe]


@pytest.mark.slow
def test_a_run_leaves_a_checkpoint_a_log_and_curves(
    tmp_path: Path, tiny_recipe: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "draw_curves", draw_curves)
    told: list[TrainingProgress] = []
    recipe = tiny_recipe(validate_every=2, precision="auto", ema=0.5)
    folder = train(recipe, tmp_path / "run", device="cpu", listener=told.append)
    checkpoint = load_checkpoint(folder)
    assert folder == tmp_path / "run" / "model"
    assert checkpoint.card.config.types == recipe.model.types
    assert checkpoint.card.training_data[0]["licence"] == "CC0-1.0"
    assert checkpoint.card.metrics["validation"]["step"] in (2, 4)
    assert checkpoint.card.threshold == checkpoint.card.metrics["validation"]["threshold"]
    assert [progress.step for progress in told] == [1, 2, 3, 4]
    assert [progress.validation is not None for progress in told] == [False, True, False, True]
    rows = read_log(tmp_path / "run")
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("train", 0),
        ("validation", 1),
        ("train", 3),
        ("validation", 3),
    ]
    assert {"f1_detection", "f1_detection_standard", "f1_type_mean", "f1_round", "f1_long"} <= rows[1].keys()
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000
    unfinished = [path.name for path in (tmp_path / "run").iterdir() if path.suffix in (".tmp", ".old")]
    assert unfinished == []


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "dropout"), [(0, 0.1), (1, 0.0)])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    workers: int, dropout: float, tmp_path: Path, tiny_recipe: Recipes
) -> None:
    recipe = tiny_recipe({"dropout": dropout}, workers=workers, validate_every=4)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(recipe, whole, device="cpu")
    train(recipe, cut, device="cpu", stop_at=2)
    assert not (cut / "model").exists()  # it stopped before its first validation
    torch.manual_seed(12345)  # whatever happened to the global generator in between
    train(recipe, cut, device="cpu", resume=True)
    assert_same_state(whole, cut)
    first, second = (load_checkpoint(folder / "model").network.state_dict() for folder in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = [[(row["step"], row.get("loss")) for row in read_log(folder)] for folder in (whole, cut)]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_a_default_of_float64_changes_nothing(tmp_path: Path, tiny_recipe: Recipes) -> None:
    recipe = tiny_recipe(validate_every=4)
    train(recipe, tmp_path / "usual", device="cpu")
    torch.set_default_dtype(torch.float64)
    try:
        train(recipe, tmp_path / "double", device="cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_state(tmp_path / "usual", tmp_path / "double")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["backward", "step", "update_parameters", "validate", "save"])
def test_a_run_interrupted_anywhere_resumes_as_if_it_had_not_been(
    place: str, tmp_path: Path, tiny_recipe: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the third step: before, while and after the weights change, while they are validated, and saved."""
    recipe = tiny_recipe(workers=0, validate_every=2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(recipe, whole, device="cpu")

    def interrupting(function: Callable[..., Any], call: int) -> Callable[..., Any]:
        calls = 0

        def inner(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                signal.raise_signal(signal.SIGINT)
            return function(*args, **kwargs)

        return inner

    owner, call, saved = {
        "backward": (trainer.Trainer, 3, 2),
        "step": (torch.optim.AdamW, 3, 3),
        "update_parameters": (AveragedModel, 3, 3),
        "validate": (loop.SupervisedObjective, 2, 2),
        "save": (loop._Run, 2, 4),
    }[place]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it is ignored
    with monkeypatch.context() as patch:
        patch.setattr(owner, place, interrupting(getattr(owner, place), call))
        with pytest.raises(KeyboardInterrupt):
            train(recipe, cut, device="cpu")
    signal.signal(signal.SIGINT, before)
    with safe_open(cut / STATE_FILE, framework="pt") as file:
        assert json.loads(file.metadata()["facts"])["step"] == saved
    train(recipe, cut, device="cpu", resume=True)
    assert_same_state(whole, cut)
    first, second = (load_checkpoint(folder / "model").network.state_dict() for folder in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, tiny_recipe: Recipes) -> None:
    recipe = tiny_recipe(steps=1)
    train(recipe, tmp_path / "run", device="cpu")
    before = (tmp_path / "run" / STATE_FILE).read_bytes()
    train(recipe, tmp_path / "run", device="cpu", resume=True)
    assert (tmp_path / "run" / STATE_FILE).read_bytes() == before
    with pytest.raises(InputError, match=r"recipe\.training\.steps: 1, now 2"):
        train(tiny_recipe(steps=2), tmp_path / "run", device="cpu", resume=True)
    with pytest.raises(InputError, match="holds a finished training run"):
        train(recipe, tmp_path / "run", device="cpu")
    other = train(tiny_recipe(steps=1, seed=1), tmp_path / "run", device="cpu", overwrite=True)
    assert (tmp_path / "run" / STATE_FILE).read_bytes() != before
    assert load_checkpoint(other).card.recipe["training"]["seed"] == 1


def test_a_folder_is_trained_in_once_at_a_time(tmp_path: Path, tiny_recipe: Recipes) -> None:
    recipe, refused = tiny_recipe(steps=1), []

    def again(progress: TrainingProgress) -> None:
        with pytest.raises(InputError, match="in use by another run") as error:
            train(recipe, tmp_path / "run", device="cpu", resume=True)
        refused.append(error)

    train(recipe, tmp_path / "run", device="cpu", listener=again)
    assert refused
    assert not (tmp_path / "run" / ".lock").exists()


def test_each_process_takes_its_own_crops() -> None:
    batches = [list(StepSampler(1, 4, 6, rank, 2)) for rank in (0, 1)]
    assert [len(batch) for batch in batches] == [3, 3]
    drawn = [index for pair in zip(*batches, strict=True) for batch in pair for index in batch]
    assert drawn == [index for batch in StepSampler(1, 4, 6, 0, 1) for index in batch] == list(range(6, 24))
    assert len(StepSampler(1, 4, 6, 0, 2)) == 3
    with pytest.raises(InputError, match="batch_size=6 is the batch of all 4 processes together"):
        StepSampler(1, 4, 6, 0, 4)


def test_a_run_that_diverges_says_so(tmp_path: Path, tiny_recipe: Recipes, monkeypatch: pytest.MonkeyPatch) -> None:
    original = CellDETR.normalise
    monkeypatch.setattr(CellDETR, "normalise", lambda self, images: original(self, images) * torch.nan)
    with pytest.raises(InputError, match=r"the loss is nan at step 0; train anew, .* a training\.lr below"):
        train(tiny_recipe(), tmp_path / "run", device="cpu")


def test_a_gradient_that_is_no_number_changes_no_weight(
    tmp_path: Path, tiny_recipe: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[int] = []
    monkeypatch.setattr(trainer, "clip_gradients", lambda *_: math.inf)
    monkeypatch.setattr(AveragedModel, "update_parameters", lambda *_: applied.append(1))
    with pytest.raises(InputError, match=r"the gradient's norm is inf at step 0"):
        train(tiny_recipe(), tmp_path / "run", device="cpu")
    assert not applied


def test_a_network_that_finds_nothing_is_scored_zero_and_not_refused(tiny_recipe: Recipes) -> None:
    recipe = tiny_recipe()
    torch.manual_seed(0)
    network = CellDETR(recipe.model).eval()  # its scores are about 1 %
    threshold, numbers = validate(TilePredictor(network, threshold=LOWEST_SCORE), load_data(recipe).held_out)
    assert threshold == LOWEST_SCORE
    assert not numbers["f1_detection"]


def test_data_are_counted_and_an_empty_part_is_refused_at_once(tmp_path: Path, tiny_recipe: Recipes) -> None:
    recipe = tiny_recipe()
    data = load_data(recipe)
    assert len(data.samples) == len(data.held_out) == len(data.weights) == 3
    assert sum(data.counts) == sum(len(sample) for sample in data.samples) == 9
    assert data.counts == np.bincount(np.concatenate([sample.types for sample in data.samples])).tolist()
    for part in ("train", "validation"):
        with pytest.raises(InputError, match=f"no labelled cell in {part}"):
            load_data(recipe.model_copy(update={part: ()}))


def test_types_are_counted_as_often_as_they_are_drawn(tiny_recipe: Recipes) -> None:
    recipe = tiny_recipe()
    (source,) = recipe.train
    rare = source.model_copy(update={"types": {"round": "", "long": "round"}, "weight": 5.0})
    data = load_data(recipe.model_copy(update={"train": (source, rare)}))
    whole = AugmentConfig(crop=64, scale=(1, 1), stain_p=0, colour_p=0, blur_p=0)
    crops = TrainingSet(data.samples, whole, 0, 600, data.weights)
    types = np.concatenate([crops[i].targets.types.numpy() for i in range(600)])
    seen = np.bincount(types[types >= 0], minlength=2)
    assert data.drawn[0] / data.drawn[1] == pytest.approx(seen[0] / seen[1], rel=0.15)
    assert data.counts[0] / data.counts[1] < 0.5 * seen[0] / seen[1]


def test_what_is_refused_leaves_nothing_behind(tmp_path: Path, tiny_recipe: Recipes) -> None:
    recipe, folder = tiny_recipe(), tmp_path / "run"
    with pytest.raises(InputError, match="device 'gpu' is not available"):
        train(recipe, folder, device="gpu")
    with pytest.raises(InputError, match="no labelled cell in train"):
        train(recipe.model_copy(update={"train": ()}), folder, device="cpu")
    with pytest.raises(InputError, match="'resnet' is not a timm network"):
        train(tiny_recipe({"backbone": "resnet"}), folder, device="cpu")
    with pytest.raises(InputError, match="no training image has masks"):
        train(tiny_recipe({"outlines": True}), folder, device="cpu")
    assert not folder.exists()


def test_outlines_are_made_where_they_are_learned(tmp_path: Path, tiny_recipe: Recipes) -> None:
    drawing, plain = tiny_recipe({"outlines": True}), tiny_recipe()
    assert not load_data(drawing).outlined
    path = tmp_path / "data" / "all.json"
    content = json.loads(path.read_text())
    x, y, w, h = content["annotations"][0]["bbox"]
    content["annotations"][0]["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    path.write_text(json.dumps(content))
    data = load_data(drawing)
    assert data.outlined
    outlines = data.samples[0].outlines
    assert outlines is not None
    assert np.isfinite(outlines).all((1, 2)).tolist() == [True, *[False] * 4]
    assert np.allclose([*outlines[0].min(0), *outlines[0].max(0)], [x, y, x + w, y + h])
    assert [sample.outlines is None for sample in data.samples] == [False, True, True]
    assert all(sample.masks is None for sample in data.samples)
    assert [sample.masks is None for sample in data.held_out] == [False, True, True]  # to compare outlines with
    for recipe in (
        plain,
        drawing.model_copy(update={"training": drawing.training.model_copy(update={"w_outline": 0})}),
    ):
        data = load_data(recipe)
        assert all(sample.outlines is sample.masks is None for sample in (*data.samples, *data.held_out))


def test_masks_are_not_looked_for_in_patches(tiny_recipe: Recipes) -> None:
    """Patches have none, and a million of them are not decoded to see that."""

    def decode(index: int) -> Sample:
        raise AssertionError(f"patch {index} was decoded")

    recipe = tiny_recipe({"outlines": True})
    data = TrainingData(LazySamples(decode, np.ones((3, 3), np.int64), np.ones(3)), [1.0] * 3, [], [3, 3], [3.0, 3.0])
    with pytest.raises(InputError, match="no training image has masks"):
        SupervisedObjective(recipe, CellDETR(recipe.model), data)


def test_labels_that_changed_since_are_told_on_resume(
    tmp_path: Path, tiny_recipe: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(steps=2)
    train(recipe, tmp_path / "run", device="cpu", stop_at=1)

    def relabelled(recipe: Recipe) -> TrainingData:
        data = load_data(recipe)
        first = data.samples[0]
        return replace(data, samples=[replace(first, types=1 - first.types), *data.samples[1:]])

    monkeypatch.setattr(loop, "load_data", relabelled)
    with pytest.raises(InputError, match="labelled cells of its data have changed"):
        train(recipe, tmp_path / "run", device="cpu", resume=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_told_in_its_own_words(
    tmp_path: Path, tiny_recipe: Recipes, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def damaged(self: object, index: int) -> None:
        raise InputError("patches/7: row 3 is damaged")

    monkeypatch.setattr("celldetr.data.dataset.TrainingSet.__getitem__", damaged)
    with pytest.raises(OneProcessError, match=r"^patches/7: row 3 is damaged$"):
        train(tiny_recipe(workers=workers), tmp_path / "run", device="cpu")


@pytest.mark.slow
def test_a_model_is_not_overwritten_by_the_run_that_starts_from_it(tmp_path: Path, tiny_recipe: Recipes) -> None:
    recipe = tiny_recipe(steps=1)
    train(recipe, tmp_path / "run", device="cpu")
    again = recipe.model_copy(update={"init": str(tmp_path / "run")})
    with pytest.raises(InputError, match="holds the model to start from"):
        train(again, tmp_path / "run", device="cpu", overwrite=True)
    assert load_checkpoint(tmp_path / "run" / "model").card.config.types == recipe.model.types


@pytest.mark.slow
def test_networks_of_fractions_are_validated_on_squares(tiny_recipe: Recipes) -> None:
    recipe = tiny_recipe({"coordinates": "image"})
    assert (validation_px(recipe), validation_px(tiny_recipe())) == (64, None)
    predictor = TilePredictor(CellDETR(recipe.model).eval(), threshold=LOWEST_SCORE)
    samples = load_data(recipe).held_out
    images, spots = validation.predict_images(predictor, samples, 32)
    assert (len(images), len(spots)) == (4 * len(samples), 4 * len(samples))
    assert sum(len(image.true_xy) for image in images) == sum(map(len, samples))


def test_a_type_called_detection_is_not_detection(tiny_recipe: Recipes) -> None:
    recipe = tiny_recipe({"types": ["round", "detection"]})
    torch.manual_seed(0)
    predictor = TilePredictor(CellDETR(recipe.model).eval(), threshold=LOWEST_SCORE)
    samples = [replace(sample, type_names=recipe.model.types) for sample in load_data(tiny_recipe()).held_out]
    images = [found_all(sample) for sample in samples]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "predict_images", lambda *_: (images, [None] * len(images)))
        _, numbers = validate(predictor, samples)
    assert numbers["f1_detection"] == 1.0
    assert numbers["f1_round"] is not None


def found_all(sample: Sample) -> ImageCells:
    """All nuclei found, all of the first type."""
    n = len(sample)
    cells = TileCells(
        sample.boxes, np.full(n, 0.9, np.float32), np.tile(np.float32([1, 0]), (n, 1)), np.zeros((n, 4), np.float16)
    )
    return image_cells(sample, cells, sample.type_names)
