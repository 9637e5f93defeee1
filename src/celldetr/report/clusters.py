"""Figures of a clustering: map of the embeddings by cluster and by type, table of clusters against types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.palette import RGB, hex_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGEND_ROWS = 22
LABELLED = 40  # clusters that are numbered on the map
SIDE = 4.2  # inches, of a map
ROW, COLUMN = 0.26, 0.95  # inches, of the table


def embedding_figure(
    points: NDArray[np.float32], panels: Sequence[tuple[str, NDArray[np.intp], Sequence[str], Sequence[RGB]]], note: str
) -> Figure:
    """Maps of the same (n, 2) points, a panel each of: title, (n,) codes, names and colours of the codes."""
    from matplotlib.figure import Figure

    width, height = np.ptp(points, axis=0)
    tall = SIDE * float(np.clip(height / max(width, 1e-9), 0.5, 1.3))
    figure = Figure(figsize=(len(panels) * (SIDE + 1.2), tall + 0.6), layout="constrained")
    size = float(np.clip(20_000 / max(len(points), 1), 1.5, 14))
    order = np.random.default_rng(0).permutation(len(points))  # so that no group covers all others
    for axes, (title, codes, names, colours) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        palette = np.array(colours, dtype=np.float64).reshape(-1, 3) / 255
        for ink, scale in (("#9a9aa2", 1.6), (palette[codes[order]], 1.0)):  # a rim keeps yellow visible on white
            axes.scatter(points[order, 0], points[order, 1], s=size * scale, c=ink, linewidths=0)
        axes.set_title(title, fontsize=10, loc="left", weight="bold")
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_visible(False)
        _legend(axes, np.bincount(codes, minlength=len(names)), names, colours)
    _numbers(figure.axes[0], points, panels[0][1])
    figure.supxlabel(note, fontsize=7, color="#6e6e76")
    return figure


def _legend(axes: Axes, counts: NDArray[np.intp], names: Sequence[str], colours: Sequence[RGB]) -> None:
    from matplotlib.lines import Line2D

    shown = [i for i in np.argsort(-counts, kind="stable") if counts[i]][:LEGEND_ROWS]
    handles = [
        Line2D(
            [], [], color=hex_colour(colours[i]), marker="o", linestyle="", markeredgecolor="#6e6e76", label=names[i]
        )
        for i in sorted(shown)
    ]
    more = int((counts > 0).sum()) - len(shown)
    if more > 0:
        handles.append(Line2D([], [], linestyle="", label=f"and {more} more"))
    axes.legend(handles=handles, fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _numbers(axes: Axes, points: NDArray[np.float32], codes: NDArray[np.intp]) -> None:
    """The number of each cluster at the middle of its points."""
    for code in np.unique(codes)[:LABELLED]:
        x, y = np.median(points[codes == code], axis=0)
        label = axes.text(float(x), float(y), str(code), fontsize=8, weight="bold", ha="center", va="center")
        label.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8, "boxstyle": "round"})


def types_figure(by_type: NDArray[np.int64], types: Sequence[str], clusters: Sequence[str]) -> Figure:
    """Clusters in rows, types in columns: the share of each cluster's cells, from their numbers ``by_type`` (C, K)."""
    from matplotlib.figure import Figure

    totals = by_type.sum(1)
    share = by_type / np.maximum(totals[:, None], 1)
    figure = Figure(figsize=(COLUMN * len(types) + 2.4, ROW * len(clusters) + 0.9), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, line in enumerate(share):
        for j, value in enumerate(line):
            text = f"{value:.0%}" if by_type[i, j] else "–"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if value > 0.55 else "black")
    axes.set_xticks(range(len(types)), types, fontsize=8)
    names = [f"{name}  ({total:,})" for name, total in zip(clusters, totals, strict=True)]
    axes.set_yticks(range(len(clusters)), names, fontsize=8)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    axes.set_xlabel("share of the cluster's cells (cells in brackets)", fontsize=7, color="#6e6e76")
    return figure
