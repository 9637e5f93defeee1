"""Figures of transferred types: how many, how sure, where, and expression beside that of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.palette import hex_colour, type_colours
from celldetr.spatial.annotate.expression import correlations
from celldetr.spatial.section import Section

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SURE, UNSURE, LINE = "#2166ac", "#c7c7cf", "#333333"
BINS = 50
MARKERS = 3  # genes a type in the dot plot
MOST_POINTS = 100_000  # cells drawn on a map
MOST_TYPES = 30  # rows of the dot plot


def types_figure(section: Section, types: pd.DataFrame, min_probability: float, min_margin: float) -> Figure:
    """Cells of each type, sure and unsure; probabilities and margins with the limits; a map of the section.

    Args:
        section: its cells include those of ``types``.
        types: table ``TYPES``.
        min_probability, min_margin: below which a cell's type is left unknown in the training set.
    """
    from matplotlib.figure import Figure

    sure = ((types["probability"] >= min_probability) & (types["margin"] >= min_margin)).to_numpy()
    names = sorted(types["type"].unique())
    colours = {name: hex_colour(colour) for name, colour in type_colours(names).items()}
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 4)
    _counts(figure.add_subplot(grid[:, 0]), types["type"].to_numpy(), sure, names)
    for row, (column, limit) in enumerate((("probability", min_probability), ("margin", min_margin))):
        axes = figure.add_subplot(grid[row, 1])
        axes.hist(types[column], bins=np.linspace(0, 1, BINS + 1).tolist(), color=SURE)
        axes.axvline(limit, color=LINE, linestyle="--", label=f"at least {limit:g}")
        axes.set(xlim=(0, 1), xlabel=f"{column} of the type", ylabel="cells")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    place = section.cells.obs_names.get_indexer(types["cell_id"])
    _map(figure.add_subplot(grid[:, 2:]), section.points[place], types["type"].to_numpy(), sure, colours)
    figure.suptitle(f"{section.name}: {int(sure.sum()):,} of {len(types):,} cells are sure of their type")
    return figure


def _counts(axes: Axes, kinds: NDArray[np.object_], sure: NDArray[np.bool_], names: Sequence[str]) -> None:
    rows = np.arange(len(names))
    certain = np.array([(sure & (kinds == name)).sum() for name in names])
    total = np.array([(kinds == name).sum() for name in names])
    axes.barh(rows, certain, color=SURE, label="sure")
    axes.barh(rows, total - certain, left=certain, color=UNSURE, label="unsure")
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set(xlabel="cells")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _map(
    axes: Axes,
    points: NDArray[np.float64],
    kinds: NDArray[np.object_],
    sure: NDArray[np.bool_],
    colours: dict[str, str],
) -> None:
    chosen = np.arange(len(points))
    if len(chosen) > MOST_POINTS:
        chosen = np.random.default_rng(0).permutation(len(points))[:MOST_POINTS]
    size = float(np.clip(20_000 / max(len(chosen), 1), 0.3, 12))
    faint = chosen[~sure[chosen]]
    axes.scatter(
        points[faint, 0], points[faint, 1], s=size / 2, c=UNSURE, linewidths=0, label="unsure", rasterized=True
    )
    for name, colour in colours.items():
        own = chosen[sure[chosen] & (kinds[chosen] == name)]
        axes.scatter(points[own, 0], points[own, 1], s=size, c=colour, linewidths=0, label=name, rasterized=True)
    axes.set(xlabel="x (µm)", ylabel="y (µm)", aspect="equal")
    axes.invert_yaxis()  # as in the image
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=4, fontsize=8)


def markers(profiles: NDArray[np.float64], count: int = MARKERS) -> NDArray[np.int64]:
    """Genes by which types of a reference differ most: for each type those with the largest lead over the second type.

    Args:
        profiles: (K, G) of ``mean_expression``.
        count: genes a type.

    Returns:
        (K, count) indices of genes.
    """
    filled = np.nan_to_num(profiles)
    if len(filled) == 1:
        return np.argsort(-filled, axis=1)[:, :count]
    top = np.sort(filled, axis=0)[-2:]  # (2, G) second best, best
    lead = filled - np.where(filled == top[1], top[0], top[1])
    return np.argsort(-lead, axis=1)[:, :count]


def expression_figure(
    section: NDArray[np.float64], reference: NDArray[np.float64], genes: Sequence[str], names: Sequence[str]
) -> Figure:
    """Expression of the section's cells against that of the reference's, by type: markers, and correlations.

    Args:
        section, reference: (K, G) of ``mean_expression``, of the same types and genes.
        genes: G names.
        names: K types.
    """
    from matplotlib.figure import Figure

    shown = np.flatnonzero(~np.isnan(section).all(axis=1))[:MOST_TYPES]
    if not len(shown):
        shown = np.arange(len(names))[:MOST_TYPES]
    chosen = markers(reference)[shown].ravel()
    _, first = np.unique(chosen, return_index=True)
    chosen = chosen[np.sort(first)]
    rows = [names[k] for k in shown.tolist()]
    side = 0.3 * len(rows)
    figure = Figure(figsize=(7.5 + 0.3 * len(chosen) + side, 3 + side), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[0.15 * len(chosen), 0.15 * len(chosen), 2.5 + side])
    for axes, values, title in ((left, reference, "reference"), (middle, section, "section")):
        part = values[np.ix_(shown, chosen)]
        scaled = part / np.maximum(np.nanmax(part, axis=0, initial=0), 1e-9)
        axes.imshow(scaled, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(chosen)), [genes[g] for g in chosen.tolist()], rotation=90, fontsize=7)
        axes.set_yticks(range(len(rows)), rows if axes is left else [], fontsize=8)
        axes.set_title(f"markers, {title}")
    matrix = correlations(section[shown], reference[shown])
    drawn = right.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    right.set_xticks(range(len(rows)), rows, rotation=90, fontsize=8)
    right.set_yticks(range(len(rows)), rows, fontsize=8)
    right.set(xlabel="reference", ylabel="section", title="correlation")
    figure.colorbar(drawn, ax=right, shrink=0.8)
    return figure
