"""Plots of a report: precision-recall curve, confusion matrix, histogram of scores, calibration, threshold sweep."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.evaluation.calibration import BINS as CALIBRATION_BINS
from celldetr.evaluation.calibration import Reliability
from celldetr.evaluation.confusion import read_confusion
from celldetr.evaluation.curve import BINS
from celldetr.evaluation.format import number
from celldetr.evaluation.report import Report
from celldetr.evaluation.threshold import ThresholdChoice
from celldetr.io.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIT, MISS, LINE = "#2166ac", "#b2182b", "#333333"  # differ also to eyes that confuse red and green


def precision_recall_figure(report: Report) -> Figure:
    """Precision against recall over all thresholds, with the one in use marked."""
    figure, (axes,) = figure_with_axes(4.5, 4.5)
    curve, detection = report.curve, report.totals.detection
    if curve.recall:
        axes.plot(curve.recall, curve.precision, color=HIT, label="pairs by falling score")
    if detection.recall is not None and detection.precision is not None:
        # Off the curve where the protocol pairs in another way.
        label = f"{report.protocol.name}, threshold {report.threshold:.3f}: F1 {number(detection.f1)}"
        axes.plot([detection.recall], [detection.precision], "o", color=MISS, label=label)
    if axes.lines:
        axes.legend(loc="lower left", frameon=False)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
    axes.set_title(f"detection, average precision {number(curve.average_precision)}")
    return figure


def confusion_figure(report: Report) -> Figure:
    """Confusion matrix, counts in the cells; by colour shares of true cells, left, and of predictions, right."""
    matrix = read_confusion(report)
    rows, columns = len(matrix.rows), len(matrix.columns)
    figure, both = figure_with_axes(2 * (1.8 + 0.8 * columns), 2.0 + 0.6 * rows, columns=2)
    drawn = [
        ("what true cells are taken for\n(shares of a row)", matrix.of_true),
        ("what predictions really are\n(shares of a column)", matrix.of_predicted),
    ]
    for axes, (title, shares) in zip(both, drawn, strict=True):
        draw_matrix(axes, shares, matrix.counts, matrix.rows, matrix.columns)
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_title(title, fontsize=9)
    figure.colorbar(both[0].images[0], ax=both, shrink=0.8, label="share")
    return figure


def draw_matrix(
    axes: Axes, shares: NDArray[np.float64], texts: NDArray, rows: Sequence[str], columns: Sequence[str]
) -> None:
    """A matrix coloured by (R, C) shares, with (R, C) texts in it."""
    axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), text in np.ndenumerate(texts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), rows)


def score_histogram_figure(report: Report) -> Figure:
    """Objectness of predictions with and without a true cell, the threshold in use marked."""
    figure, (axes,) = figure_with_axes(5, 3.5)
    left = np.arange(BINS) / BINS
    axes.bar(left, report.curve.hits, 1 / BINS, align="edge", color=HIT, label="on a true cell")
    axes.bar(left, report.curve.misses, 1 / BINS, align="edge", bottom=report.curve.hits, color=MISS, label="on none")
    axes.axvline(report.threshold, color=LINE, linestyle="--", label=f"threshold {report.threshold:.3f}")
    axes.set(xlim=(0, 1), xlabel="objectness", ylabel="predictions")
    axes.legend(frameon=False)
    return figure


def reliability_figure(report: Report) -> Figure:
    """Stated against true share in bins of the score, of objectness and of the most probable type; below, how many."""
    figure, (shares, numbers) = figure_with_axes(4.5, 5.5, heights=(3, 1), sharex=True)
    shares.plot([0, 1], [0, 1], color=LINE, linestyle="--", linewidth=1)
    _draw_reliability(shares, numbers, report.calibration.objectness, HIT, "score: has a true cell")
    _draw_reliability(shares, numbers, report.calibration.types, MISS, "type: is the true one")
    shares.set(xlim=(0, 1), ylim=(0, 1.01), ylabel="true share")
    shares.legend(loc="upper left", frameon=False)
    numbers.set(xlim=(0, 1), xlabel="stated probability", ylabel="predictions")
    numbers.set_yscale("symlog", linthresh=1)  # a bin can be empty
    return figure


def _draw_reliability(shares: Axes, numbers: Axes, measured: Reliability, colour: str, name: str) -> None:
    seen = [pair for pair in zip(measured.stated, measured.share_right, strict=True) if pair[0] is not None]
    x, y = zip(*seen, strict=True) if seen else ((), ())
    shares.plot(x, y, "o-", color=colour, label=f"{name}, error {number(measured.error)}")
    numbers.stairs(measured.counts, np.arange(CALIBRATION_BINS + 1) / CALIBRATION_BINS, color=colour)


def threshold_figure(choice: ThresholdChoice) -> Figure:
    """Detection F1 on validation against the threshold, the chosen one marked."""
    figure, (axes,) = figure_with_axes(5, 3.5)
    axes.plot(choice.tried, choice.f1, color=HIT)
    axes.axvline(choice.threshold, color=LINE, linestyle="--", label=f"chosen: {choice.threshold:.3f}")
    axes.set(xlim=(0, 1), xlabel="threshold", ylabel="detection F1, mean over rules of pairing")
    axes.legend(frameon=False)
    return figure


def save_plots(report: Report, directory: str | os.PathLike[str], suffix: str = ".png") -> None:
    """Write every plot of a report into a directory that exists.

    Raises:
        InputError: an unknown suffix, or a directory that cannot be written.
    """
    figures = {
        "precision_recall": precision_recall_figure,
        "confusion": confusion_figure,
        "scores": score_histogram_figure,
        "reliability": reliability_figure,
    }
    for name, draw in figures.items():
        save_figure(draw(report), Path(directory) / f"{name}{suffix}")


def figure_with_axes(
    width: float, height: float, *, heights: Sequence[float] = (1,), columns: int = 1, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of a size in inches with rows of relative ``heights``; its axes have no frame above and at the right."""
    # Imported here: the import takes longer than most commands, and few of them draw.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(len(heights), columns, sharex=sharex, squeeze=False, height_ratios=heights)
    axes: list[Axes] = grid.ravel().tolist()
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes
