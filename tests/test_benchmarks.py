"""The parts of ``benchmarks/`` that make data, against brute force: a wrong one would go unnoticed in a timing."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from celldetr.recipes import load_recipe
from celldetr.slide.reader import open_slide

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Import a module of a folder of ``benchmarks/``, and forget it afterwards."""

    def load(name: str, folder: str = ".") -> ModuleType:
        monkeypatch.syspath_prepend(str(BENCHMARKS / folder))
        return importlib.import_module(name)

    known = set(sys.modules)
    yield load
    for name in set(sys.modules) - known:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_commands_of_the_study_of_pretraining_fit_its_recipes():
    """As the recipe's first lines say them, with everything that a line break or ``...`` stands for."""
    lines = (BENCHMARKS / "pretraining" / "pretrain.yaml").read_text().splitlines()
    told = " ".join(line[1:].strip() for line in lines if line.startswith("#")).replace("\\", " ")
    commands = re.findall(r"training\.seed=S.*?(?=\.\.\.|Rates)", told)
    assert len(commands) == 3
    recipes = []
    for command in commands:
        words = [word.replace("=S", "=1") for word in shlex.split(command)]
        del words[words.index("-o") : words.index("-o") + 2]
        recipes.append(load_recipe(BENCHMARKS / "pretraining" / "pretrain.yaml", words))
    two, start, released = recipes
    assert [recipe.training.seed for recipe in recipes] == [1, 1, 1]
    assert start.training.lr == pytest.approx(0, abs=1e-9)
    assert start.model == two.model != released.model
    assert released.training.contrastive.views == "released"
    assert released.training.contrastive.start == "random"
    views = two.training.steps * two.training.batch_size * 2  # two views of an image
    assert released.training.steps * released.training.batch_size == views


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
