"""Figures are drawn from any report, written whole, and leave no trace in matplotlib's global state."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from celldetr.evaluation.plots import (
    confusion_figure,
    precision_recall_figure,
    save_plots,
    threshold_figure,
)
from celldetr.evaluation.score import score_images
from celldetr.evaluation.threshold import best_threshold
from helpers.scenes import TYPES, image, random_image

IMAGES = [random_image(seed) for seed in range(8)]
REPORT = score_images(IMAGES, TYPES, threshold=0.3, resamples=0)


def test_all_plots_are_written(tmp_path: Path) -> None:
    used = "matplotlib.pyplot" in sys.modules
    save_plots(REPORT, tmp_path)
    paths = list(tmp_path.iterdir())
    assert {path.name for path in paths} == {"precision_recall.png", "confusion.png", "scores.png", "reliability.png"}
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) > 300
            assert len(set(picture.convert("L").resize((50, 50)).tobytes())) > 5  # not blank
    assert ("matplotlib.pyplot" in sys.modules) == used


def test_curve_and_threshold_are_on_the_plot() -> None:
    axes = precision_recall_figure(REPORT).axes[0]
    assert tuple(axes.lines[0].get_xdata()) == REPORT.curve.recall
    assert axes.lines[1].get_xdata()[0] == REPORT.totals.detection.recall
    choice = best_threshold(IMAGES)
    assert threshold_figure(choice).axes[0].lines[1].get_xdata()[0] == choice.threshold


def test_confusion_shows_the_counts() -> None:
    axes = confusion_figure(REPORT).axes[0]
    shown = [int(text.get_text()) for text in axes.texts]
    assert shown == [count for row in REPORT.confusion for count in row]
    known = score_images([random_image(3, unknown=False)], TYPES, threshold=0.3)
    labels = [label.get_text() for label in confusion_figure(known).axes[0].get_yticklabels()]
    assert labels == [*TYPES, "no cell"]


def test_an_empty_report_is_drawn_too(tmp_path: Path) -> None:
    save_plots(score_images([image()], TYPES, threshold=0.5), tmp_path, ".svg")
    assert [path.stat().st_size > 1000 for path in tmp_path.iterdir()] == [True] * 4
