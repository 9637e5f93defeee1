"""Figures of step 5, from which a person sees whether cells and nuclei fit: ``overlay`` and ``residual_figure``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from celldetr.slide.base_reader import SlideReader
from celldetr.spatial.affine import Floats, apply, in_image_um
from celldetr.spatial.align import far_apart
from celldetr.spatial.residuals import ResidualMap, residual_map
from celldetr.spatial.section import Nuclei

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL, NUCLEUS, LINE, ALONE = "#ffd400", "#00b3c7", "#000000", "#d6006e"  # seen on pink and violet
OBSERVED, CHANCE = "#2166ac", "#b2182b"
FIELDS, FIELD_UM, FIELD_PX = 6, 100.0, 400
THUMBNAIL = 1200  # px, the longer side
MOST_POINTS = 20_000  # drawn on the thumbnail
FARTHEST = 15.0  # um, of the histogram
ARROWS = 400  # most, of the map
CELLS_A_HEXAGON, FEWEST_CELLS = 40, 8  # of the map of paired cells: on average, and at least

Positions = tuple[NDArray[np.int64], NDArray[np.int64]]


def pair_positions(pairs: pd.DataFrame, cell_ids: NDArray[np.object_]) -> Positions:
    """(P,) positions of the cells of a table ``PAIRS`` among all ``cell_ids``, and (P,) of the nuclei."""
    import pandas as pd

    cell = pd.Index(cell_ids).get_indexer(pd.Index(pairs["cell_id"]))
    return cell.astype(np.int64), pairs["nucleus"].to_numpy(dtype=np.int64)


def overlay(reader: SlideReader, cells_um: Floats, nuclei: Nuclei, to_image: Floats, pairs: Positions) -> Figure:
    """The H&E with (N, 2) cells on it, and some places of it enlarged, with nuclei and pairs."""
    from matplotlib.figure import Figure

    cells = apply(to_image, cells_um)
    figure = Figure(figsize=(13, 6.8), layout="constrained")
    grid = figure.add_gridspec(2, 5)
    whole = figure.add_subplot(grid[:, :2])
    width, height = reader.width, reader.height
    scale = min(1.0, THUMBNAIL / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    whole.imshow(reader.read_region(0, 0, width, height, *size), extent=(0, width, height, 0))
    shown = cells[:: max(1, -(-len(cells) // MOST_POINTS))]
    _draw_cells(whole, shown, CELL, float(np.clip(150 / np.sqrt(max(len(shown), 1)), 1.2, 5.0)))
    whole.set(xlim=(0, width), ylim=(height, 0), xlabel="x (level-0 px)", ylabel="y (level-0 px)")
    inside = ((cells >= 0) & (cells <= [width, height])).all(1).sum()
    whole.set_title(f"{inside:,} of {len(cells):,} cells in the image", fontsize=9)
    field = FIELD_UM / np.array([reader.mpp_x, reader.mpp_y])
    for number, centre in enumerate(field_centres(cells, (width, height), field)):
        axes = figure.add_subplot(grid[number // 3, 2 + number % 3])
        low, high = centre - field / 2, centre + field / 2
        _draw_field(axes, reader, low, high, cells, nuclei, pairs)
        axes.set_title(f"{number + 1}: {FIELD_UM:g} um wide", fontsize=8)
        whole.plot(*np.array([low, (high[0], low[1]), high, (low[0], high[1]), low]).T, color=LINE, linewidth=1.0)
        whole.annotate(str(number + 1), tuple(low), color=LINE, fontsize=8, fontweight="bold", va="bottom")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def field_centres(cells_px: Floats, size: tuple[int, int], field: Floats) -> Floats:
    """(F, 2) where to look closely: places with many cells, far from each other; ``field`` is their (2,) size, px."""
    middle = np.array(size) / 2
    inside = cells_px[(cells_px >= 0).all(1) & (cells_px < size).all(1)]
    if not len(inside):
        return middle[None]
    squares, counts = np.unique((inside // field).astype(np.int64), axis=0, return_counts=True)
    dense = counts >= np.median(counts) / 2  # at the rim there is little to see
    centres = (squares[dense] + 0.5) * field
    chosen = centres[far_apart(centres, int(np.argmax(counts[dense])), FIELDS)]
    return np.clip(chosen, np.minimum(field / 2, middle), np.maximum(size - field / 2, middle))


def _draw_field(
    axes: Axes, reader: SlideReader, low: Floats, high: Floats, cells: Floats, nuclei: Nuclei, pairs: Positions
) -> None:
    from matplotlib.collections import LineCollection

    (x, y), (width, height) = low.tolist(), (high - low).tolist()
    axes.imshow(reader.read_region(x, y, width, height, FIELD_PX, FIELD_PX), extent=(low[0], high[0], high[1], low[1]))

    def near(points: Floats) -> NDArray[np.bool_]:
        margin = 0.05 * (high - low)
        return np.all((points >= low - margin) & (points <= high + margin), axis=1)

    outlines = [_outline(nuclei, k) for k in np.flatnonzero(near(nuclei.points)).tolist()]
    axes.add_collection(LineCollection(outlines, colors=NUCLEUS, linewidths=0.9, label="nucleus"))
    alone = near(cells)
    paired = alone[pairs[0]]
    alone[pairs[0]] = False
    ends = np.stack([cells[pairs[0][paired]], nuclei.points[pairs[1][paired]]], axis=1)
    axes.add_collection(LineCollection(list(ends), colors=LINE, linewidths=1.0, label="pair"))
    _draw_cells(axes, ends[:, 0], CELL, 5, "cell with a nucleus")
    _draw_cells(axes, cells[alone], ALONE, 5, "cell without a nucleus")
    axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xticks=[], yticks=[])


def _draw_cells(axes: Axes, points: Floats, colour: str, size: float, label: str = "") -> None:
    edge = 0.06 * size
    axes.plot(*points.T, ".", color=colour, ms=size, label=label, markeredgecolor=LINE, markeredgewidth=edge)


def _outline(nuclei: Nuclei, position: int) -> Floats:
    """(V, 2) of the polygon of a nucleus, or else of its box."""
    polygon = None if nuclei.polygons is None else nuclei.polygons[position]
    if polygon is not None:
        return np.asarray(polygon.exterior.coords)[:, :2]
    x0, y0, x1, y1 = nuclei.boxes[position].astype(np.float64)
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]])


def residual_figure(
    pairs: pd.DataFrame,
    cells_um: Floats,
    pair_cells: NDArray[np.int64],
    to_image: Floats,
    mpp: tuple[float, float],
    observed_um: Floats,
    chance_um: Floats,
) -> Figure:
    """What is left after alignment: how large and in which direction, where, and where cells find no nucleus.

    Args:
        pairs: table ``PAIRS``.
        cells_um: (N, 2) all cells, um of the section.
        pair_cells: (P,) positions of the pairs' cells among them.
        to_image: (3, 3) from um of the section to level-0 pixels of this ``mpp``.
        mpp: of level 0.
        observed_um, chance_um: distances to the nearest nucleus, and the same after shifts (``nearest_distances``).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), layout="constrained")
    where, rates, distances = figure.subplots(1, 3)
    points = apply(in_image_um(to_image, mpp), cells_um)
    if len(pairs):
        _draw_map(where, residual_map(points[pair_cells], pairs[["dx_um", "dy_um"]].to_numpy(dtype=np.float64)))
        _draw_rates(rates, points, np.isin(np.arange(len(points)), pair_cells))
    bins = np.linspace(0, FARTHEST, 61).tolist()
    distances.hist(observed_um, bins, density=True, color=OBSERVED, alpha=0.5, label="cell to nearest nucleus")
    distances.hist(chance_um, bins, density=True, color=CHANCE, histtype="step", label="the same, by chance")
    median = float(pairs["distance_um"].median())
    distances.axvline(median, color=LINE, linestyle="--", linewidth=1, label=f"pairs: median {median:.2f} um")
    distances.set(xlim=(0, FARTHEST), xlabel="distance (um)", ylabel="share per um")
    distances.set_title("distances after alignment", fontsize=9)
    distances.legend(frameon=False, fontsize=8)
    return figure


def _draw_map(axes: Axes, residuals: ResidualMap) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    most, side = max(2.0, float(np.quantile(residuals.lengths, 0.98))), residuals.side_um
    corners = residuals.centres - side / 2
    squares = PatchCollection([Rectangle((x, y), side, side) for x, y in corners.tolist()], linewidths=0)
    squares.set_array(residuals.lengths)
    squares.set_clim(0, most)
    axes.add_collection(squares)
    axes.figure.colorbar(squares, ax=axes, label="um", shrink=0.7, extend="max")
    step = max(1, -(-len(corners) // ARROWS))
    # An arrow of the largest residual that the colours tell apart is as long as a square.
    arrows = {"angles": "xy", "scale_units": "xy", "scale": most / (side * np.sqrt(step))}
    places, displacement = residuals.centres[::step].T, residuals.displacement[::step].T
    axes.quiver(*places, *displacement, color="white", width=0.004, edgecolor=LINE, **arrows)
    axes.set_title("local median residual, arrows enlarged", fontsize=9)
    axes.set(xlabel="x (um of the image)", ylabel="y (um of the image)", aspect="equal")
    axes.invert_yaxis()


def _draw_rates(axes: Axes, points: Floats, paired: NDArray[np.bool_]) -> None:
    across = max(2, int(np.sqrt(len(points) / CELLS_A_HEXAGON)))
    fewest = min(FEWEST_CELLS, len(points))
    x, y = points.T
    marks = axes.hexbin(x, y, paired, gridsize=across, mincnt=fewest, cmap="cividis", vmin=0, vmax=1, linewidths=0)
    axes.figure.colorbar(marks, ax=axes, label="share of cells", shrink=0.7)
    axes.set_title(f"cells with a nucleus: {paired.mean():.0%}", fontsize=9)
    axes.set(xlabel="x (um of the image)", ylabel="y (um of the image)", aspect="equal")
    axes.invert_yaxis()
