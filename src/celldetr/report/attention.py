"""Where networks look when they represent a cell: one row a cell, first the tissue with its outline,
if it has one, then a column for each network, with its box.

Every sampling point is a dot whose area is proportional to its attention weight, of all heads together; its colour says
which feature level it reads. All panels have one physical scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.rings import CORNERS
from celldetr.report.panels import draw_tissue, frame, scale_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL_COLOURS = ("#ffd92f", "#33d6c0", "#ff7f0e", "#1f4fff")  # finest first; seen on H&E, told apart when colour-blind
MORE = "#f5f5f5"  # of levels beyond these
PANEL_INCHES = 1.75
TITLE_LETTERS = 22  # of a column's name in a line; a wider one would push the panels apart
DOTS = 0.5  # area of all dots of a network in a panel, times the median box's area
SCALE_UM = 5.0
POINTS = 72  # an inch
BOX_INKS = {"black": 1.8, "white": 0.9}


@dataclass(frozen=True)
class Attention:
    """Where one network looks for one cell."""

    title: str  # lines over the panel
    points: NDArray[np.floating]  # (M, 2) (x, y) of the sampling points from the cell's centre, micrometres
    weights: NDArray[np.floating]  # (M,) share of the attention of each, adding up to 1
    strides: NDArray[np.integer]  # (M,) pixels per cell of the level that each reads


@dataclass(frozen=True)
class CellRow:
    """One cell."""

    title: str  # lines over the panel of the tissue
    pixels: NDArray[np.uint8]  # (S, S, 3) uint8, the tissue around its centre
    size_um: tuple[float, float]  # width and height of its box
    attentions: tuple[Attention, ...]  # one for each network
    border_um: NDArray[np.floating] | None = None  # (V, 2) points of its outline from the box's centre, if it has one


def attention_figure(
    rows: Sequence[CellRow], field_um: float, columns: Sequence[str], level_um: dict[int, str]
) -> Figure:
    """Draw the cells, a row each.

    Args:
        rows: at least one, each with as many attentions as there are ``columns``.
        field_um: side of what a panel shows.
        columns: names of the networks.
        level_um: stride -> text of the legend.
    """
    # Imported here: the import takes longer than most commands, and few of them draw.
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    palette = chain(LEVEL_COLOURS, repeat(MORE))
    colours = dict(zip(sorted(level_um), palette, strict=False))
    across = 1 + len(columns)
    names = ["\n".join(wrap(name, TITLE_LETTERS)) for name in ("tissue", *columns)]
    over = 0.1 + 0.13 * max(name.count("\n") for name in names)  # inches over the first line of a name
    height = len(rows) * (PANEL_INCHES + 0.32) + 0.55 + over
    figure = Figure(figsize=(across * PANEL_INCHES + 0.1, height))
    room = 1 - over / height  # above it the names of the columns, which the layout does not see
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, rect=(0, 0, 1, room))
    median = float(np.median([row.size_um[0] * row.size_um[1] for row in rows]))
    area = DOTS * median * (PANEL_INCHES * POINTS / field_um) ** 2  # square points
    grid = figure.subplots(len(rows), across, squeeze=False)
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "va": "bottom"}
    for axes, name in zip(grid[0], names, strict=True):
        axes.annotate(name, (0.5, 1), (0, 25), fontsize=8, weight="bold", **place)
    for row, line in zip(rows, grid, strict=True):
        box = CORNERS * row.size_um / 2  # attention is held to it
        for i, axes in enumerate(line):
            drawn = box if i or row.border_um is None else row.border_um
            draw_tissue(axes, row.pixels, field_um, drawn, BOX_INKS)
            frame(axes, field_um)
        line[0].set_title(row.title, fontsize=7, pad=3)
        for axes, attention in zip(line[1:], row.attentions, strict=True):
            axes.set_title(attention.title, fontsize=7, pad=3)
            _dots(axes, attention, colours, area)
    scale_bar(grid[0, 0], field_um, SCALE_UM)
    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", markeredgecolor="black", label=level_um[stride])
        for stride, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), across), fontsize=7)
    return figure


def _dots(axes: Axes, attention: Attention, colours: dict[int, str], area: float) -> None:
    """Large ones first, so that they cover none; ``area`` is that of all together, square points."""
    order = np.argsort(-attention.weights, kind="stable")
    axes.scatter(
        attention.points[order, 0],
        attention.points[order, 1],
        s=attention.weights[order] * area * 4 / np.pi,  # matplotlib's s is the square of the diameter
        c=[colours[int(stride)] for stride in attention.strides[order]],
        edgecolors="black",
        linewidths=0.35,
        alpha=0.85,
        zorder=3,
    )
