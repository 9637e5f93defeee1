"""Figure of the quality control: histograms of the measures with the limits, and a map of the cells that fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.spatial.qc import Limit, Measure, QualityOptions, limits, measures, qc_summary
from celldetr.spatial.section import Section

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PASSED, FAILED, LINE = "#2166ac", "#b2182b", "#333333"  # told apart by eyes that confuse red and green
# Reasons on the map, the most common first; what comes after has the last colour.
REASONS = ("#b2182b", "#e08214", "#762a83", "#1b7837", "#777777")
_LABELS: dict[Measure, str] = {
    "counts": "transcripts a cell",
    "genes": "genes a cell",
    "cell_area_um2": "area of the cell (µm²)",
    "nucleus_area_um2": "area of the nucleus (µm²)",
}
_BINS = 60


def qc_figure(section: Section, quality: pd.DataFrame, options: QualityOptions | None = None) -> Figure:
    """Histograms of counts, genes and areas with the limits drawn in, and a map of the section with failed cells.

    Args:
        section: N cells.
        quality: table of ``qc_cells``.
        options: the limits.
    """
    from matplotlib.figure import Figure

    values, drawn = measures(section), limits(section, options)
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 4)
    for place, (measure, label) in enumerate(_LABELS.items()):
        axes = figure.add_subplot(grid[place // 2, place % 2])
        axes.spines[["top", "right"]].set_visible(False)
        if measure in values:
            _histogram(axes, values[measure], [limit for limit in drawn if limit.measure == measure])
        else:
            axes.text(0.5, 0.5, "not known", ha="center", va="center", transform=axes.transAxes, color=LINE)
            axes.set(xticks=[], yticks=[])
        axes.set(xlabel=label, ylabel="cells")
    _map(figure.add_subplot(grid[:, 2:]), section.points, quality)
    numbers = qc_summary(quality)
    share = numbers["passed"] / max(1, numbers["cells"])
    figure.suptitle(f"{section.name}: {numbers['passed']:,} of {numbers['cells']:,} cells pass ({share:.0%})")
    return figure


def _histogram(axes: Axes, values: NDArray[np.float64], drawn: list[Limit]) -> None:
    """Values of all cells, those beyond a limit in another colour; on a logarithmic axis where they are spread wide."""
    known = values[np.isfinite(values)]
    beyond = np.zeros(len(known), dtype=bool)
    for limit in drawn:
        beyond |= limit.fails(known)
    ends = [end for limit in drawn for end in (limit.low, limit.high) if np.isfinite(end) and end > 0]
    top = max([1.0, float(known.max(initial=0)), *(end for end in ends if end <= 3 * known.max(initial=0))])
    positive = known[known > 0]
    wide = len(positive) > 0 and top > 30 * float(np.quantile(positive, 0.01))
    if wide:
        least = min([float(positive.min()), *ends])
        edges = np.concatenate([[0], np.geomspace(max(least, 1.0) * 0.8, top * 1.05, _BINS)])
        axes.set_xscale("symlog", linthresh=1, linscale=0.3)  # zero is a value, too
    else:
        edges = np.linspace(0, top * 1.02, _BINS + 1)
    axes.hist([known[~beyond], known[beyond]], edges.tolist(), stacked=True, color=[PASSED, FAILED])
    for end in ends:
        if end <= edges[-1]:
            axes.axvline(end, color=LINE, linestyle="--", linewidth=1)
    axes.set_xlim(0, edges[-1])
    off = (
        f", limit at {', '.join(f'{_short(end)}' for end in ends if end > edges[-1])}"
        if max(ends, default=0) > edges[-1]
        else ""
    )
    unknown = len(values) - len(known)
    axes.set_title(
        f"{int(beyond.sum()):,} beyond a limit{off}" + (f", {unknown:,} not known" * bool(unknown)), fontsize=9
    )


def _map(axes: Axes, points: NDArray[np.float64], quality: pd.DataFrame) -> None:
    """Cells where they are, as an image is shown (y down), failed ones in the colour of their first reason."""
    passed = quality["passed"].to_numpy(dtype=bool)
    # A point about as large as a cell's share of the map, but to be seen.
    size = float(np.clip(4e4 / max(1, len(points)), 0.3, 12))
    axes.scatter(
        points[passed, 0],
        points[passed, 1],
        s=size,
        color="#bdbdbd",
        linewidths=0,
        rasterized=True,
        label=f"passed ({passed.sum():,})",
    )
    first = quality["reason"].str.split("; ", n=1).str[0].to_numpy(dtype=object)
    names = quality.loc[~passed, "reason"].str.split("; ", n=1).str[0].value_counts().index.tolist()
    groups = [[name] for name in names[: len(REASONS) - 1]]
    rest = names[len(REASONS) - 1 :]
    for colour, group in zip(REASONS, [*groups, rest] if rest else groups, strict=False):
        chosen = ~passed & np.isin(first.astype(str), group)
        label = group[0] if len(group) == 1 else f"{len(group)} other reasons"
        text = f"{label} ({chosen.sum():,})"
        axes.scatter(
            points[chosen, 0], points[chosen, 1], s=1.5 * size, color=colour, linewidths=0, rasterized=True, label=text
        )
    axes.set(xlabel="x (µm)", ylabel="y (µm)", aspect="equal")
    axes.invert_yaxis()
    legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=8, ncols=2)
    for handle in legend.legend_handles:
        if handle is not None and hasattr(handle, "set_sizes"):
            handle.set_sizes([20])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
