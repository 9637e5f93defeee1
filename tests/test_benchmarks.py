"""Every benchmark runs once on little, and what some of them make for themselves is checked against brute force.

Where they name data sets there are the folders of ``helpers.stand_ins``; constants say how little. What a benchmark
starts as a process of its own script, or of ``celldetr``, is run in this one.
"""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import shapely
import torch
import yaml

from celldetr.model.hub import find_model
from celldetr.recipes import load_recipe
from celldetr.research.ablation.study import load_study
from celldetr.slide.reader import open_slide
from celldetr.training.familiarity import training_images
from helpers.cli import call
from helpers.sample_crop import crop
from helpers.stand_ins import write_bone_marrow, write_reference, write_stand_ins
from helpers.synthetic import svs
from helpers.view_browser import needs_chromium

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SMALL_RECIPE = (
    "training.batch_size=1", "training.workers=0", "augment.crop=64", "model.encoder_layers=1",
    "model.detection_layers=1", "model.representation_layers=1", "model.pretrained=none",
)  # fmt: skip


class Place(NamedTuple):
    """What there is to work on."""

    data: Path
    slide: Path
    onnx: Path
    out: Path


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Import a module of a folder of ``benchmarks/``, and forget it afterwards."""

    def load(name: str, folder: str = ".") -> ModuleType:
        monkeypatch.syspath_prepend(str(BENCHMARKS / folder))
        return importlib.import_module(name)

    known = set(sys.modules)
    yield load
    for name in set(sys.modules) - known:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_ins(tmp_path_factory.mktemp("data"))


@pytest.fixture
def place(data: Path, small_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("CELLDETR_DATA", str(data))
    slide = svs(tmp_path / "small", crop(), 0.499, 0.499)["path"]
    return Place(data, slide, small_onnx, tmp_path)


def run(module: ModuleType, *arguments: object) -> str:
    """Run a benchmark; returns what it prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", [str(module.__file__), *map(str, arguments)])
        module.main()
    return printed.getvalue()


def in_process(module: ModuleType) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``subprocess.run`` of the benchmark itself, or of ``celldetr``, without a process."""

    really = subprocess.run

    def start(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        if program == "celldetr":
            return subprocess.CompletedProcess(command, call(*arguments), "", "")
        if (program, arguments[0]) == (sys.executable, module.__file__):
            return subprocess.CompletedProcess(command, 0, run(module, *arguments[1:]), "")
        return really(command, **options)

    return start


def small_recipe(name: str, settings: Sequence[str] = (), *rest: Any) -> Any:
    return load_recipe(name, [*settings, *SMALL_RECIPE], *rest)


def small_study(name: str) -> Any:
    study = load_study(name)
    return study.model_copy(update={"set": (*study.set, *SMALL_RECIPE)})


def small_tissue(count: int, size: int) -> list[Any]:
    return [crop()[:128, :128]] * count


Arguments = Callable[[Place], list[object]]
Constants = Callable[[Place], dict[str, Any]]
NOTHING: Arguments = lambda place: []  # noqa: E731

# Arguments and constants with which each is small.
SMALL: dict[str, tuple[Arguments, dict[str, Any] | Constants]] = {
    "attention_inside": (lambda place: ["small-20x"], {}),
    "embed_cells": (lambda place: ["--side", 160, "--rounds", 1], {"PLACE": (950, 900)}),
    "embedding_cost": (NOTHING, {"ROUNDS": 1, "IMAGES": 1, "SIZES": (64,)}),
    "engines": (
        lambda place: ["--runs", 1, "--threads", 1, "--onnx", place.onnx],
        {"TORCH": ("celldetr fp32",), "INT8": "ONNX Runtime", "TILES": 1, "SIDE": 96},
    ),
    "familiarity": (
        lambda place: ["--foreign", "consep:test"],
        lambda place: {
            **dict.fromkeys(("FAMILIAR", "TRAINING", "TEST"), "brca-m2c:val"),
            **{"MOST": {}, "IMAGES": 1, "CENTRES": (1,), "SCALED": 1, "sample_slide": lambda: place.slide},
        },
    ),
    "finetune_curve": (
        lambda place: ["--cells", 10, "--seeds", 1, "--steps", 1, *SMALL_RECIPE[:3], "model.pretrained=none"],
        {"HELD_OUT": 1},
    ),
    "foreign_tissue": (NOTHING, {"THRESHOLDS": (0.3,)}),
    "frozen_features": (NOTHING, {"SEEDS": 1}),
    "kernel_ratios": (lambda place: ["--pairs", 1, "--threads", 1], {"WARM": 0, "SIZES": ((64, 1),), "STEP_PX": 64}),
    "million_cells": (lambda place: ["--cells", 600, "--steps", "index", "query", "geojson", "teach", "retype"], {}),
    "kin_across": (
        lambda place: ["--kept", place.out],
        {"PARTS": (("brca-m2c", "val"), ("brca-m2c", "val")), "K": 1, "LEAST": 1, "SHRINK": 0.5},
    ),
    "known_failures": (lambda place: ["small-20x", "brca-m2c", "val", "--out", place.out / "failures.jpg"], {}),
    "label_checks": (lambda place: ["--images", 1], {}),
    "nested_cells": (NOTHING, {"SETS": (("brca-m2c", "val", 1),), "SHARES": (0.8,)}),
    "neighbour_index": (lambda place: ["--cells", 4000, "--queries", 5, "--libraries", "faiss-ivf"], {}),
    "nucleus_size": (NOTHING, {"FACTORS": (1.0,), "PLACES": ((1200, 900),), "SIDE": 160}),
    "null_size": (lambda place: ["--repeats", 4, "--resamples", 20], {}),
    "onnx_same_result": (NOTHING, lambda place: {"BATCHES": ((1, 96),), "export_onnx": lambda *_: place.onnx}),
    "orientations": (NOTHING, {"COUNTS": (1, 2)}),
    "outline_ceiling": (NOTHING, {"SETS": [("consep", ("test",))]}),
    "outline_cost": (lambda place: ["--rounds", 1], {"tissue": small_tissue}),
    "patch_quality": (lambda place: [0.5, place.slide], {"PX": 120, "MOST": 2}),
    "peers": (lambda place: ["--peers", "celldetr-float32", "--threads", 1, "--rounds", 1, "--tiles", 1], {}),
    "pseudo_boxes": (NOTHING, {}),
    "query_scores": (NOTHING, {"tissue": small_tissue}),
    "query_time": (lambda place: ["--turns", 1], {"STEPS": 1, "WARM": 0, "load_study": small_study}),
    "same_nucleus": (NOTHING, {"DISTANCES_UM": (2.5,)}),
    "same_result": (NOTHING, {}),
    "ship_weights": (
        lambda place: [find_model("small-20x"), "shipped"],
        lambda place: {
            "PACKAGED": place.out,
            "training_images": lambda recipe: training_images(recipe.model_copy(update={"train": recipe.validation})),
        },
    ),
    "size_in_content": (NOTHING, {"SIDE_UM": 60.0, "PLACE": (950.0, 900.0)}),
    "slide_profile": (lambda place: [place.slide], {}),
    "spatial_truth": (
        lambda place: ["--tiles", 4, "--only", "as it comes", "--reference", reference(place)],
        {},
    ),
    "stain_check": (lambda place: [place.data, "--most", 1], {}),
    "teach_curve": (
        lambda place: ["--seeds", 1, "--sets", "brca-m2c", "--kept", place.out, "--finetune", 8, "--finetune-seeds", 1],
        {
            **{"SETS": {"brca-m2c": ("val", "val", ("lymphocyte", "epithelial", "stromal"))}, "CLICKS": (4, 8)},
            **{"BATCH": 4, "load_recipe": lambda name, own: load_recipe(name, [*own, "training.steps=1"])},
        },
    ),
    "tile_speed": (NOTHING, lambda place: {"SIZES": ((64, 1),), "REPEATS": 1, "sample_slide": lambda: place.slide}),
    "types_readout": (
        lambda place: ["--models", "small-20x", "--images", 2],
        {
            **dict.fromkeys(("BREAST", "ORGANS"), ("brca-m2c:val",)),
            **{"SCORED": {"breast": ("brca-m2c:val",)}, "MAPS": ("encoder 16",), "WINDOWS": (24,)},
        },
    ),
}  # fmt: skip


def reference(place: Place) -> Path:
    """Of four of the types that benchmarks simulate."""
    types = ["CD4+/CD25 T Reg", "CD14+ Monocyte", "CD19+ B", "CD56+ NK"]
    return write_reference(place.out / "reference.h5ad", "bulk_labels", types)


@pytest.fixture
def small(load: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Import a benchmark with other constants."""

    def make(name: str, folder: str = ".", **constants: Any) -> ModuleType:
        module = load(name, folder)
        for key, value in constants.items():
            monkeypatch.setattr(module, key, value)
        if hasattr(module, "subprocess"):
            monkeypatch.setattr(module.subprocess, "run", in_process(module))
        return module

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs(name: str, small: Callable[..., ModuleType], place: Place) -> None:
    arguments, constants = SMALL[name]
    module = small(name, **(constants(place) if callable(constants) else constants))
    threads = torch.get_num_threads()
    try:
        printed = run(module, *arguments(place))
    finally:
        torch.set_num_threads(threads)
    assert len(printed.splitlines()) > 0
    assert "failed" not in printed


@pytest.mark.slow
def test_big_slides(small: Callable[..., ModuleType], place: Place) -> None:
    big = place.out / "big.tif"
    run(small("big_slide"), "--side", 700, "-o", big, "--model", "")
    assert "embed boxes / predict: " in run(small("embed_cells", WARM=64), "--slide", big, "--rounds", 1)
    module = small("big_run", EVERY=0.0)
    module.PredictOptions = partial(module.PredictOptions, tile=160, overlap=48, batch_size=1)
    printed = run(module, big, "-o", place.out / "big", "--plot", place.out / "plot.png")
    assert "geojson: " in printed
    assert (place.out / "plot.png").stat().st_size > 1000


@pytest.mark.slow
def test_few_labels(small: Callable[..., ModuleType], place: Place) -> None:
    printed = run(small("label_checks", FEW=(2,), DRAWS=1, SETS={"brca-m2c": "val"}), "--few", "--images", 1)
    assert printed.splitlines()[-1].split()[:2] == ["2", "1"]


@pytest.mark.slow
def test_paper_r50(small: Callable[..., ModuleType], place: Place) -> None:
    module = small("paper_r50", PROBE=1)
    light = ("model.backbone=resnet18", "model.num_queries=50", "training.workers=0")
    module.CHANGES += (*light, *SMALL_RECIPE[2:])
    assert "1 steps of 1" in run(module, "--steps", 1)


@pytest.mark.slow
def test_roi_equals_filter(small: Callable[..., ModuleType], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    module = small("roi_equals_filter", ROI=shapely.box(50, 60, 200, 250))
    monkeypatch.setattr(module.celldetr, "sample_slide", lambda: place.slide)
    assert "same type: 100.00%" in run(module)


@pytest.mark.slow
def test_same_cells(load: Callable[..., ModuleType], place: Place) -> None:
    module = load("same_cells")
    with pytest.raises(SystemExit) as end:
        run(module, ROOT, ROOT, "--", place.slide)
    assert end.value.code == 0


@pytest.mark.slow
def test_speed_pairs(small: Callable[..., ModuleType], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    module = small("speed_pairs", SIDES=(64,))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    ready, *turns = run(module, "--first", ROOT, "--work", "tile").splitlines()
    assert ready == "ready"
    assert [len(turn.split()) for turn in turns] == [2, 2]


@pytest.mark.slow
def test_places_in_tiles(small: Callable[..., ModuleType], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "encoder, stride 32" in run(small("reach_of_levels", TILE_PX=64, MARGIN_PX=16), "--images", 1)
    monkeypatch.setattr("celldetr.probe.location.TILE_PX", 32)
    monkeypatch.setattr("celldetr.probe.location.FOLDS", 2)
    assert "nothing changed" in run(small("ways_of_place", TILE_PX=32), "--ways", 1)


@pytest.mark.slow
def test_ideas(small: Callable[..., ModuleType], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ("training.steps=1", "training.warmup=1", *SMALL_RECIPE)
    constants = {"TILE_PX": 64, "CROPS": 2, "LEAST_CELLS": 1, "OCCLUDED": 2, "ARMS": {"neither": (), "both": ()}}
    module = small("ideas", **constants, VALUES=("backbone",), TILES=("placed",))
    monkeypatch.setattr(module, "DETECTOR", ("training.w_type=0", *steps))
    monkeypatch.setattr(module, "DECODER", ("training.mode=parallel_jittered", *steps))
    monkeypatch.setattr("celldetr.probe.location.FOLDS", 2)
    assert "type F1, reversed tiles" in run(module, "-o", place.out, "--seeds", 1)


@pytest.mark.slow
def test_training_speed(small: Callable[..., ModuleType], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    module, recipe = small("training_speed"), place.out / "recipe.yaml"
    values = small_recipe("small-20x").model_dump(mode="json")
    recipe.write_text(yaml.safe_dump(values))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    steps = run(module, "--precision", 32, "--work", recipe, place.out / "run").splitlines()
    assert [len(step.split()) for step in steps] == [3, 3]


@pytest.mark.slow
def test_spatial_size(small: Callable[..., ModuleType], place: Place) -> None:
    module = small("spatial_size", measured=lambda work, *given: (work(*given), (0.0, 0.0))[1])
    (place.out / "work").mkdir()
    folder = write_bone_marrow(place.out / "bone-marrow")
    assert "write" in run(module, "--bone-marrow", folder, "--work", place.out / "work", "--cells", 400)


@pytest.mark.slow
def test_spatial_training(small: Callable[..., ModuleType], place: Place) -> None:
    module = small("spatial_training")
    module.OPTIONS = module.OPTIONS.model_copy(update={"px": 64, "min_nuclei": 1})
    printed = run(module, "--reference", reference(place), "--work", place.out / "work", "--steps", 1)
    assert "trained on recovered labels" in printed


@pytest.mark.slow
def test_sets_of_pretraining(small: Callable[..., ModuleType], place: Place) -> None:
    module = small("sets", "pretraining", SETS={"brca": ("brca-m2c", "train", 64)})
    run(module, place.out / "sets")
    assert (place.out / "sets" / "brca" / "set.json").is_file()


def test_losses_of_pretraining_are_trained_and_then_probed(
    load: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, commands = load("losses", "pretraining"), list[tuple[str, ...]]()
    monkeypatch.setattr(module, "do", lambda *command: commands.append(command))
    run(module, "--jobs", 2)
    assert [command[:2] for command in commands[1:]] == [("celldetr", "ablate"), *[("celldetr", "probe")] * 2]
    study = load_study(str(module.STUDY))
    for variant in study.variants:
        recipe = study.recipe_of(variant, 0)
        loss, start = variant.split("-")
        assert (recipe.training.contrastive.views, recipe.training.contrastive.start == "whitened") == (
            loss,
            start == "whitened",
        )
        assert (recipe.model.content, recipe.model.level_norm) == (
            ("features", "layer") if start == "whitened" else ("size", "group")
        )
        assert any(f"losses/{variant}/seed$seed/model" in part for part in commands[-1])


@pytest.mark.slow
def test_modules_passed(load: Callable[..., ModuleType]) -> None:
    ways = run(load("modules_passed")).split("\n\n")
    ends = [line for way in ways for line in way.splitlines() if "modules outside of model/" in line]
    passed, climbs = zip(*((int(end.split()[0]), int(end.split(", ")[1].split()[0])) for end in ends), strict=True)
    assert len(ends) == 2
    assert max(passed) <= 19
    assert max(climbs) <= 5  # helpers without a package: jit, measure, outlines, progress, stain


@pytest.mark.slow
def test_across_processors(small: Callable[..., ModuleType], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    module = small("across_processors", PRECISIONS=("32",))
    monkeypatch.setattr(module.celldetr, "sample_slide", lambda: place.slide)
    assert "100.0" in run(module)  # of itself: in one process there is one kind of processor


@pytest.mark.slow
def test_nuinsseg_scale(load: Callable[..., ModuleType], place: Place) -> None:
    sizes = load("nuinsseg_scale").diameters("consep", ("test",))
    assert all((diameters > 0).all() for diameters in sizes.values())


@pytest.mark.slow
@needs_chromium
def test_view_speed(load: Callable[..., ModuleType], place: Place) -> None:
    folder = place.out / "view_speed"
    printed = run(load("view_speed"), "--cells", 1200, "--side", 700, "-o", folder)
    assert "learn again, all cells typed" in printed
    assert (folder / "out" / "slide1" / "cells.parquet").is_file()


def test_none_is_left_out() -> None:
    text = Path(__file__).read_text()
    parts = {"bone_marrow", "peers_catalogue", "scores"}  # imported by others
    names = {path.stem for path in BENCHMARKS.glob("*.py")} - parts
    assert [name for name in names if f'"{name}"' not in text] == []


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("pretraining/*.yaml")), ids=lambda path: path.stem)
def test_recipes_and_studies_of_pretraining_are_valid(path: Path) -> None:
    read = load_study if "variants" in yaml.safe_load(path.read_text()) else load_recipe
    assert read(str(path)).name


# What benchmarks make for themselves


def test_rays_end_on_the_outline_of_the_ellipse(load):
    drawn = load("drawn_nuclei", "peers_workers")
    boxes = np.array([[10, 12, 34, 28], [40, 40, 52, 60]], np.float32)
    nuclei = drawn.draw(boxes, 64)
    rows, columns = np.nonzero(nuclei.labels)
    found = drawn.rays(nuclei, rows, columns, 8)
    for row, column, distances in list(zip(rows, columns, found, strict=True))[::7]:
        left, top, right, bottom = boxes[nuclei.labels[row, column] - 1]
        for direction, distance in enumerate(distances):
            angle = 2 * np.pi * direction / 8
            steps = np.arange(0, 40, 0.01)  # walk until outside
            x = column + 0.5 + steps * np.cos(angle) - (left + right) / 2
            y = row + 0.5 + steps * np.sin(angle) - (top + bottom) / 2
            outside = (2 * x / (right - left)) ** 2 + (2 * y / (bottom - top)) ** 2 > 1
            assert distance == pytest.approx(steps[np.argmax(outside)], abs=0.02)


def test_drawn_nuclei_fill_their_boxes(load):
    nuclei = load("drawn_nuclei", "peers_workers").draw(np.array([[4, 8, 24, 18]], np.float32), 32)
    rows, columns = np.nonzero(nuclei.labels)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (8, 18, 4, 24)
    assert len(rows) == pytest.approx(np.pi * 10 * 5, rel=0.05)
    assert np.abs(nuclei.relative).max() == pytest.approx(0.95, abs=0.05)
    assert not nuclei.offset[nuclei.labels == 0].any()


@pytest.mark.slow
def test_big_slide_repeats_its_pattern_on_every_level(load, tmp_path):
    big_slide = load("big_slide")
    crop, period = big_slide.pattern()
    assert np.array_equal(np.roll(period, (-1077, -733), axis=(0, 1))[:2048, :2048], crop)
    big_slide.write(tmp_path / "big.tif", 4500, 256, period)
    with open_slide(tmp_path / "big.tif") as slide:
        assert (slide.width, slide.height, slide.mpp) == (4500, 4500, pytest.approx(0.5))
        assert [level.downsample[0] for level in slide.levels] == [1, 4, 16, 64]
        for level, by in enumerate(big_slide.REDUCTIONS):
            side = 4500 // by
            start = side - min(side, 600)  # the last 600 px of level 0 lie across the seam of two periods
            wanted = np.tile(big_slide.reduced(period, by), (2, 2, 1))[start:side, start:side].astype(int)
            found = slide.read_level(level, start, start, side - start, side - start)
            # What JPEG changes is less than what a shift by one pixel would.
            assert 2 * np.abs(found - wanted).mean() < np.abs(found - np.roll(wanted, 1, axis=1)).mean()
