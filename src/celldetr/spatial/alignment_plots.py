"""Pictures of step 5, from which a person sees whether cells and nuclei fit: ``overlay`` and ``residual_figure``.

Each function makes a matplotlib figure and nothing else; none touches pyplot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.slide.base_reader import SlideReader
from celldetr.slide.reader import from_array
from celldetr.spatial.affine import apply
from celldetr.spatial.coordinates import Floats, Mpp, in_image_um, pixel_scale
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


def overlay(
    image: SlideReader | NDArray[np.uint8],
    cells_um: Floats,
    nuclei: Nuclei,
    to_image: Floats,
    mpp: Mpp,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    fields: int = FIELDS,
    title: str = "",
) -> Figure:
    """The H&E with the cells on it, and some places of it enlarged, with nuclei and pairs.

    Args:
        image: an open slide, or (H, W, 3) uint8 RGB of level 0.
        cells_um: (N, 2) centres of cells, um of the section.
        nuclei: of the image.
        to_image: (3, 3) from the one to level-0 pixels of the other.
        mpp: of level 0.
        pairs: (P,) cells and (P,) nuclei (positions) that are paired, see ``pair_positions``.
        fields: places enlarged, at most.
        title: of the figure: which alignment it shows.
    """
    reader = from_array(image, float(pixel_scale(mpp).mean())) if isinstance(image, np.ndarray) else image
    cells = apply(np.asarray(to_image, dtype=np.float64), cells_um)
    figure = _figure(13, 6.8)
    grid = figure.add_gridspec(2, 5, width_ratios=[1, 1, 1, 1, 1])
    whole = figure.add_subplot(grid[:, :2])
    scale = min(1.0, THUMBNAIL / max(reader.width, reader.height))
    size = max(1, round(reader.width * scale)), max(1, round(reader.height * scale))
    extent = (0, reader.width, reader.height, 0)
    whole.imshow(reader.read_region(0, 0, reader.width, reader.height, *size), extent=extent)
    shown = cells[:: max(1, -(-len(cells) // MOST_POINTS))]
    dot = float(np.clip(150 / np.sqrt(max(len(shown), 1)), 1.2, 5.0))
    whole.plot(*shown.T, ".", color=CELL, markersize=dot, markeredgecolor=LINE, markeredgewidth=0.06 * dot)
    inside = (cells >= 0).all(1) & (cells <= [reader.width, reader.height]).all(1)
    whole.set(xlim=(0, reader.width), ylim=(reader.height, 0), xlabel="x (level-0 px)", ylabel="y (level-0 px)")
    where = f"{inside.mean():.0%} of {len(cells):,} cells in the image" if len(cells) else "no cells"
    whole.set_title(f"{title}{': ' if title else ''}{where}", fontsize=9)
    places = field_centres(cells, nuclei.points, (reader.width, reader.height), mpp, min(fields, FIELDS))
    for number, centre in enumerate(places):
        axes = figure.add_subplot(grid[number // 3, 2 + number % 3])
        half = FIELD_UM / 2 / pixel_scale(mpp)
        _draw_field(axes, reader, centre, half, cells, nuclei, pairs)
        axes.set_title(f"{number + 1}: {FIELD_UM:g} um wide", fontsize=8)
        whole.add_patch(_rectangle(centre - half, 2 * half))
        whole.annotate(str(number + 1), centre - half, color=LINE, fontsize=8, fontweight="bold", va="bottom")
    _legend(figure, pairs is not None)
    return figure


def pair_positions(
    pairs: pd.DataFrame, cell_ids: NDArray[Any] | list[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the cells and the nuclei of a table of pairs, for ``overlay`` and ``residual_figure``.

    Args:
        pairs: of ``celldetr.spatial.pair``.
        cell_ids: of all cells, in their order.
    """
    import pandas as pd

    cell = pd.Index(np.asarray(cell_ids, dtype=object)).get_indexer(pd.Index(pairs["cell_id"]))
    return cell.astype(np.int64), pairs["nucleus"].to_numpy(dtype=np.int64)


def field_centres(cells_px: Floats, nuclei_px: Floats, size: tuple[int, int], mpp: Mpp, count: int) -> Floats:
    """(F, 2) where to look closely: places with many cells (or nuclei, if no cell is there), far from each other.

    The same points give the same places.
    """
    field, middle = FIELD_UM / pixel_scale(mpp), np.array(size) / 2
    inside = cells_px[(cells_px >= 0).all(1) & (cells_px < size).all(1)]
    points = inside if len(inside) else nuclei_px
    if not len(points):
        return middle[None]
    squares, counts = np.unique((points // field).astype(np.int64), axis=0, return_counts=True)
    dense = counts >= np.median(counts) / 2  # at the rim there is little to see
    centres = (squares[dense] + 0.5) * field
    chosen = [int(np.argmax(counts[dense]))]
    distance = np.linalg.norm(centres - centres[chosen[0]], axis=1)
    while len(chosen) < min(count, len(centres)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(centres - centres[chosen[-1]], axis=1))
    return np.clip(centres[chosen], np.minimum(field / 2, middle), np.maximum(size - field / 2, middle))


def _draw_field(
    axes: Axes,
    reader: SlideReader,
    centre: Floats,
    half: Floats,
    cells: Floats,
    nuclei: Nuclei,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
) -> None:
    from matplotlib.collections import LineCollection

    low, high = centre - half, centre + half
    (x, y), (width, height) = low.tolist(), (high - low).tolist()
    pixels = reader.read_region(x, y, width, height, FIELD_PX, FIELD_PX)
    axes.imshow(pixels, extent=(low[0], high[0], high[1], low[1]))
    margin = half * 0.1
    seen = np.flatnonzero(((nuclei.points >= low - margin) & (nuclei.points <= high + margin)).all(1))
    axes.add_collection(LineCollection([_outline(nuclei, k) for k in seen.tolist()], colors=NUCLEUS, linewidths=0.9))
    near: NDArray[np.bool_] = np.all((cells >= low - margin) & (cells <= high + margin), axis=1)
    alone = near.copy()
    if pairs is not None:
        paired = near[pairs[0]]
        ends = np.stack([cells[pairs[0][paired]], nuclei.points[pairs[1][paired]]], axis=1)
        axes.add_collection(LineCollection(list(ends), colors=LINE, linewidths=1.0))
        alone[pairs[0]] = False
        axes.plot(*cells[pairs[0][paired]].T, ".", color=CELL, markersize=5, markeredgecolor=LINE, markeredgewidth=0.3)
    colour = CELL if pairs is None else ALONE
    axes.plot(*cells[alone].T, ".", color=colour, markersize=5, markeredgecolor=LINE, markeredgewidth=0.3)
    axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xticks=[], yticks=[])


def _outline(nuclei: Nuclei, position: int) -> Floats:
    """(V, 2) of the polygon of a nucleus, or else of its box."""
    polygon = None if nuclei.polygons is None else nuclei.polygons[position]
    if polygon is not None:
        return np.asarray(polygon.exterior.coords)[:, :2]
    x0, y0, x1, y1 = nuclei.boxes[position].astype(np.float64)
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]])


def _rectangle(corner: Floats, size: Floats) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((corner[0], corner[1]), size[0], size[1], fill=False, edgecolor=LINE, linewidth=1.0)


def _legend(figure: Figure, paired: bool) -> None:
    from matplotlib.lines import Line2D

    def dot(colour: str, label: str) -> Line2D:
        return Line2D([], [], marker=".", linestyle="", color=colour, markeredgecolor=LINE, markersize=8, label=label)

    handles = [dot(CELL, "cell with a nucleus" if paired else "cell"), Line2D([], [], color=NUCLEUS, label="nucleus")]
    if paired:
        handles += [dot(ALONE, "cell without a nucleus"), Line2D([], [], color=LINE, label="pair")]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)


def residual_figure(
    pairs: pd.DataFrame,
    cells_um: Floats,
    pair_cells: NDArray[np.int64],
    to_image: Floats,
    mpp: Mpp,
    chance_um: Floats | None = None,
    observed_um: Floats | None = None,
) -> Figure:
    """What is left after alignment: how large and in which direction, where, and where cells find no nucleus.

    Args:
        pairs: of ``celldetr.spatial.pair``.
        cells_um: (N, 2) all cells, um of the section.
        pair_cells: (P,) positions of the pairs' cells among them, see ``pair_positions``.
        to_image: (3, 3) from um of the section to level-0 pixels.
        mpp: of level 0.
        chance_um, observed_um: distances from cells to the nearest nucleus after random shifts, and as they are, of
            ``celldetr.spatial.evidence.nearest_distances``.
    """
    figure = _figure(13, 4.6)
    where, rates, distances = figure.subplots(1, 3)
    points = apply(in_image_um(np.asarray(to_image, dtype=np.float64), mpp), cells_um)
    residuals = residual_map(points[pair_cells], pairs[["dx_um", "dy_um"]].to_numpy(dtype=np.float64))
    _draw_map(figure, where, residuals)
    _draw_rates(figure, rates, points, pair_cells)
    _draw_distances(distances, pairs["distance_um"].to_numpy(dtype=np.float64), chance_um, observed_um)
    for axes in (where, rates):
        axes.set(xlabel="x (um of the image)", ylabel="y (um of the image)", aspect="equal")
        axes.set(xlim=_span(points[:, 0]), ylim=_span(points[:, 1])[::-1])
        axes.tick_params(labelsize=8)
    return figure


def _span(values: Floats) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    margin = max(0.02 * float(np.ptp(values)), 1.0)
    return float(values.min()) - margin, float(values.max()) + margin


def _draw_map(figure: Figure, axes: Axes, residuals: ResidualMap) -> None:
    axes.set_title("local median residual, arrows enlarged", fontsize=9)
    if not len(residuals.centres):
        return
    most = max(2.0, float(np.quantile(residuals.lengths, 0.98)))
    marks = _squares(axes, residuals.centres, residuals.side_um, residuals.lengths, "viridis", 0.0, most)
    figure.colorbar(marks, ax=axes, label="um", shrink=0.7, extend="max")
    step = max(1, -(-len(residuals.centres) // ARROWS))
    centres, arrows = residuals.centres[::step], residuals.displacement[::step]
    # An arrow of the largest residual that the colours tell apart is as long as a square.
    scale = most / (residuals.side_um * np.sqrt(step))
    axes.quiver(
        *centres.T, *arrows.T, angles="xy", scale_units="xy", scale=scale, color="white", width=0.004, edgecolor=LINE
    )


def _draw_rates(figure: Figure, axes: Axes, points: Floats, pair_cells: NDArray[np.int64]) -> None:
    paired = np.zeros(len(points))
    paired[pair_cells] = 1
    axes.set_title(f"cells with a nucleus: {paired.mean():.0%}" if len(points) else "no cells", fontsize=9)
    if not len(points):
        return
    side = float(np.sqrt(np.maximum(np.ptp(points, axis=0), 1.0).prod() * 40 / len(points)))
    squares, of, counts = np.unique((points // side).astype(np.int64), axis=0, return_inverse=True, return_counts=True)
    rate = np.bincount(of.ravel(), weights=paired) / counts
    kept = counts >= min(8, counts.max())
    marks = _squares(axes, (squares[kept] + 0.5) * side, side, rate[kept], "cividis", 0.0, 1.0)
    figure.colorbar(marks, ax=axes, label="share of cells", shrink=0.7)


def _squares(axes: Axes, centres: Floats, side: float, values: Floats, colours: str, low: float, high: float) -> Any:
    """Squares of a grid, coloured; what a scatter plot would draw, in the units of the axes."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    patches = [Rectangle((x - side / 2, y - side / 2), side, side) for x, y in centres]
    collection = PatchCollection(patches, cmap=colours, linewidths=0)
    collection.set_array(values)
    collection.set_clim(low, high)
    axes.add_collection(collection)
    return collection


def _draw_distances(axes: Axes, paired: Floats, chance: Floats | None, observed: Floats | None) -> None:
    bins = np.linspace(0, FARTHEST, 61).tolist()
    if observed is not None and len(observed):
        axes.hist(observed, bins, density=True, color=OBSERVED, alpha=0.5, label="cell to nearest nucleus")
    elif len(paired):
        axes.hist(paired, bins, density=True, color=OBSERVED, alpha=0.5, label="pairs")
    if chance is not None and len(chance):
        axes.hist(chance, bins, density=True, color=CHANCE, histtype="step", label="the same, by chance")
    if len(paired):
        median = float(np.median(paired))
        axes.axvline(median, color=LINE, linestyle="--", linewidth=1, label=f"pairs: median {median:.2f} um")
    axes.set(xlim=(0, FARTHEST), xlabel="distance (um)", ylabel="share per um")
    axes.set_title("distances after alignment", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _figure(width: float, height: float) -> Figure:
    # Imported here: the import takes longer than most commands, and few of them draw.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
