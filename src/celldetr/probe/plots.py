"""Pictures of a probe: macro F1 of all rows, macro F1 over the share of labels, confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from celldetr.evaluation.plots import HIT, MISS, draw_matrix, figure_with_axes
from celldetr.probe.row import SHARES, MethodRow
from celldetr.probe.summary import Number, RowNumbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bars_figure(numbers: Sequence[RowNumbers]) -> Figure:
    """Macro F1 with all labels, a bar each for linear probe and kNN, with intervals; rows from top to bottom."""
    figure, (axes,) = figure_with_axes(6.5, 1.2 + 0.55 * len(numbers))
    for offset, colour, kind, label in ((-0.2, HIT, "linear", "linear probe"), (0.2, MISS, "knn", "kNN")):
        for place, row in enumerate(numbers):
            number = row.macro_f1[kind][1.0]
            axes.barh(place + offset, number.value, 0.38, color=colour, label=label if place == 0 else None)
            low, high = _bounds(number)
            axes.plot([low, high], [place + offset] * 2, color="black", linewidth=1.2)
    axes.set_yticks(range(len(numbers)), [f"{n.row.name}\n{n.row.ms_per_cell:.2g} ms a cell" for n in numbers])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="macro F1, test split, 95 %")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def labels_figure(numbers: Sequence[RowNumbers]) -> Figure:
    """Macro F1 of the linear probe over the share of training labels, bands of 95 %."""
    import matplotlib

    figure, (axes,) = figure_with_axes(6.5, 4.2)
    palette = matplotlib.colormaps["tab10"]
    for i, row in enumerate(numbers):
        bounds = np.array([_bounds(row.macro_f1["linear"][share]) for share in SHARES])
        axes.fill_between(SHARES, bounds[:, 0], bounds[:, 1], color=palette(i % 10), alpha=0.12, linewidth=0)
        values = [row.macro_f1["linear"][share].value for share in SHARES]
        axes.plot(SHARES, values, "o-", color=palette(i % 10), label=row.row.name)
    axes.set_xscale("log")
    axes.set_xticks(SHARES, [f"{share:.0%}".replace("%", " %") for share in SHARES])
    axes.minorticks_off()
    axes.set(xlabel="share of the training labels", ylabel="macro F1, linear probe")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def confusion_figure(row: MethodRow, type_names: tuple[str, ...]) -> Figure:
    """Confusion matrix of the linear probe with all labels: shares of each true type."""
    counts = row.counts["linear"][1.0].sum(1).mean(0)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, (axes,) = figure_with_axes(2 + 0.8 * len(type_names), 1.6 + 0.6 * len(type_names))
    texts = np.empty(shares.shape, object)
    for place, share in np.ndenumerate(shares):
        texts[place] = f"{share:.2f}\n{counts[place]:.0f}"
    draw_matrix(axes, shares, texts, type_names, type_names)
    axes.set(xlabel="linear probe", ylabel="true", title=row.name)
    return figure


def _bounds(number: Number) -> tuple[float, float]:
    if number.low is None or number.high is None:
        return number.value, number.value
    return number.low, number.high
