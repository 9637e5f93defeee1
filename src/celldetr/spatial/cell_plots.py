"""Figures of steps 2 and 3: the quality of cells, their types, and expression beside that of the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.palette import hex_colour, type_colours
from celldetr.spatial.affine import Floats
from celldetr.spatial.annotate.expression import correlations
from celldetr.spatial.qc import Limit, Measure, QualityOptions, limits, measures
from celldetr.spatial.section import Section

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

GOOD, BAD, UNSURE, LINE = "#2166ac", "#b2182b", "#c7c7cf", "#333333"  # distinct to eyes that confuse red and green
# Reasons on the map, the most common first; what comes after has the last colour.
REASONS = ("#b2182b", "#e08214", "#762a83", "#1b7837", "#777777")
LABELS: dict[Measure, str] = {
    "counts": "transcripts a cell",
    "genes": "genes a cell",
    "cell_area_um2": "area of the cell (µm²)",
    "nucleus_area_um2": "area of the nucleus (µm²)",
}
BINS = 60
MARKERS = 3  # genes a type in the dot plot
MOST_POINTS = 100_000  # cells drawn on a map
MOST_TYPES = 30  # rows of the dot plot


def qc_figure(section: Section, quality: pd.DataFrame, options: QualityOptions) -> Figure:
    """Histograms of counts, genes and areas with the limits drawn in, and a map of the section with failed cells."""
    values = measures(section)
    figure, grid = _figure()
    for place, (measure, label) in enumerate(LABELS.items()):
        axes = figure.add_subplot(grid[place // 2, place % 2])
        if measure in values:
            own = [limit for limit in limits(values, options) if limit.measure == measure]
            _draw_quality(axes, values[measure], own)
        else:
            axes.text(0.5, 0.5, "not known", ha="center", va="center", transform=axes.transAxes, color=LINE)
            axes.set(xticks=[], yticks=[])
        axes.set(xlabel=label, ylabel="cells")
    passed = quality["passed"].to_numpy(dtype=bool)
    first = quality["reason"].str.split("; ", n=1).str[0].to_numpy(dtype=object)
    names = quality.loc[~passed, "reason"].str.split("; ", n=1).str[0].value_counts().index.tolist()
    colours = {name: REASONS[min(k, len(REASONS) - 1)] for k, name in enumerate(names)}
    _draw_map(figure.add_subplot(grid[:, 2:]), section.points, first, colours, "passed")
    figure.suptitle(f"{section.name}: {passed.sum():,} of {len(passed):,} cells pass ({passed.mean():.0%})")
    return figure


def _draw_quality(axes: Axes, values: Floats, limits: Sequence[Limit]) -> None:
    """A histogram of all cells, on a logarithmic axis; those beyond a limit in another colour."""
    known = values[np.isfinite(values)]
    beyond = np.zeros(len(known), dtype=bool)
    for limit in limits:
        beyond |= limit.fails(known)
    ends = [end for limit in limits for end in (limit.low, limit.high) if np.isfinite(end) and end > 0]
    last = 1.05 * max([2.0, float(known.max()), *ends])
    axes.set_xscale("symlog", linthresh=1, linscale=0.3)  # zero is a value, too
    edges = np.concatenate([[0], np.geomspace(0.8, last, BINS)]).tolist()
    axes.hist([known[~beyond], known[beyond]], edges, stacked=True, color=[GOOD, BAD])
    for end in ends:
        axes.axvline(end, color=LINE, linestyle="--", linewidth=1)
    axes.set_xlim(0, last)
    axes.set_title(f"{beyond.sum():,} beyond a limit, {len(values) - len(known):,} not known", fontsize=9)


def types_figure(section: Section, types: pd.DataFrame, min_probability: float, min_margin: float) -> Figure:
    """Cells of each type, within the limits of step 6 and not; probabilities and margins with these limits; a map."""
    sure = ((types["probability"] >= min_probability) & (types["margin"] >= min_margin)).to_numpy()
    kinds = types["type"].to_numpy()
    names = sorted(types["type"].unique())
    figure, grid = _figure()
    axes = figure.add_subplot(grid[:, 0])
    certain, total = (np.array([(mask & (kinds == name)).sum() for name in names]) for mask in (sure, True))
    axes.barh(range(len(names)), certain, color=GOOD, label="within the limits")
    axes.barh(range(len(names)), total - certain, left=certain, color=UNSURE, label="not, nuclei stay untyped")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="cells")
    axes.legend(frameon=False)
    for row, (column, limit) in enumerate((("probability", min_probability), ("margin", min_margin))):
        axes = figure.add_subplot(grid[row, 1])
        axes.hist(types[column], bins=np.linspace(0, 1, BINS + 1).tolist(), color=GOOD)
        axes.axvline(limit, color=LINE, linestyle="--", label=f"at least {limit:g}")
        axes.set(xlim=(0, 1), xlabel=f"{column} of the type", ylabel="cells")
        axes.legend(frameon=False)
    place = section.cells.obs_names.get_indexer(types["cell_id"])
    colours = {name: hex_colour(colour) for name, colour in type_colours(names).items() if name}
    _draw_map(figure.add_subplot(grid[:, 2:]), section.points[place], np.where(sure, kinds, ""), colours, "not within")
    figure.suptitle(f"{section.name}: {sure.sum():,} of {len(types):,} cells are within the limits of step 6")
    return figure


def _draw_map(axes: Axes, points: Floats, kinds: NDArray[np.object_], colours: Mapping[str, str], other: str) -> None:
    """Cells where they are, in the colours of their kinds; those of no kind, "", below them."""
    drawn = np.arange(len(points))
    if len(drawn) > MOST_POINTS:
        drawn = np.random.default_rng(0).permutation(len(points))[:MOST_POINTS]
    # A point about as large as a cell's share of the map, but to be seen.
    size = float(np.clip(3e4 / max(len(drawn), 1), 0.3, 12))
    for kind, colour in {"": UNSURE, **colours}.items():
        x, y = points[drawn[kinds[drawn] == kind]].T
        label = f"{kind or other} ({(kinds == kind).sum():,})"
        axes.scatter(x, y, s=size if kind else size / 2, c=colour, linewidths=0, label=label, rasterized=True)
    axes.set(xlabel="x (µm)", ylabel="y (µm)", aspect="equal")
    axes.invert_yaxis()  # as in the image
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=8, ncols=2, markerscale=4)


def markers(profiles: Floats, count: int = MARKERS) -> NDArray[np.int64]:
    """(K, count) genes by which types differ most: for each those with the largest lead over the second type.

    ``profiles`` is (K, G), see ``mean_expression``.
    """
    filled = np.nan_to_num(profiles)
    if len(filled) == 1:
        return np.argsort(-filled, axis=1)[:, :count]
    second, best = np.sort(filled, axis=0)[-2:]
    lead = filled - np.where(filled == best, second, best)
    return np.argsort(-lead, axis=1)[:, :count]


def expression_figure(section: Floats, reference: Floats, genes: Sequence[str], names: Sequence[str]) -> Figure:
    """Expression of the section's cells against that of the reference's, both (K, G): markers, and correlations."""
    from matplotlib.figure import Figure

    shown = np.flatnonzero(~np.isnan(section).all(axis=1))[:MOST_TYPES]
    if not len(shown):
        shown = np.arange(len(names))[:MOST_TYPES]
    chosen = np.array(list(dict.fromkeys(markers(reference)[shown].ravel().tolist())))
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
    drawn = right.imshow(correlations(section[shown], reference[shown]), cmap="RdBu_r", vmin=-1, vmax=1)
    right.set_xticks(range(len(rows)), rows, rotation=90, fontsize=8)
    right.set_yticks(range(len(rows)), rows, fontsize=8)
    right.set(xlabel="reference", ylabel="section", title="correlation")
    figure.colorbar(drawn, ax=right, shrink=0.8)
    return figure


def _figure() -> tuple[Figure, GridSpec]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.5), layout="constrained")
    return figure, figure.add_gridspec(2, 4)
