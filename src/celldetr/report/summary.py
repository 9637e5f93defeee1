"""``summary.html``: the cells of a slide on one page, by which a pathologist can decide whether to believe them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.cells.palette import hex_colour
from celldetr.cells.reader import CellTable, by_taught, open_table
from celldetr.cells.rings import has_outlines, ring_columns, rings
from celldetr.report.charts import Plot, Scatter, histogram_plot, scatter_map
from celldetr.report.crops import FIELD_UM, Crop, crop_cell, jpeg_uri
from celldetr.report.density import density_maps
from celldetr.report.embedding_map import map_embeddings
from celldetr.report.fields import SIDE_UM, show_fields
from celldetr.report.neighbourhood import FEWEST, NEIGHBOURS, neighbourhood
from celldetr.report.overview import OVERVIEW_NAME
from celldetr.report.page import origin, write_page
from celldetr.report.statistics import (
    DIAMETER_STEP,
    RATIO_STEP,
    SCORE_STEP,
    SHARE_STEP,
    Picks,
    Statistics,
    gather,
)

if TYPE_CHECKING:
    from celldetr.slide.base_reader import SlideReader

SUMMARY_NAME = "summary.html"
EXAMPLES = 12  # crops a row
INLINE_SIDE = 1400  # px; the overview inside the page is a preview of overview.png
DIAMETER_BIN = 0.5  # um, of the chart
SCORE_BIN = 0.02
FAILED_SHOWN = 20  # rows
RARE, OFTEN = (110, 165, 220), (245, 165, 80)  # blue and orange, which are told apart with all colour vision


@dataclass(frozen=True)
class TypeSummary:
    """One type: name, CSS colour, number of cells, medians of diameter (um) and score (NaN without a cell), crops of
    the most sure, of some drawn at random, and of the least sure."""

    name: str
    colour: str
    count: int
    diameter: float
    score: float
    surest: list[Crop]
    random: list[Crop]
    unsurest: list[Crop]


@dataclass(frozen=True)
class Pair:
    """How cells of a type lie to those of another: see ``neighbourhood``."""

    ratio: float
    z: float
    distance: float

    @property
    def shade(self) -> str:
        """CSS colour of the ratio: blue below 1, orange above, white at 1; deepest at a quarter and at four times."""
        power = float(np.clip(np.log2(max(self.ratio, 1e-9)) / 2, -1, 1)) if np.isfinite(self.ratio) else 0.0
        deep = RARE if power < 0 else OFTEN
        return hex_colour(tuple(round(255 + (channel - 255) * abs(power)) for channel in deep))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Beside:
    """Types, and for each in a row how its cells lie to those of each in a column."""

    kinds: list[TypeSummary]
    rows: list[list[Pair]]


@dataclass(frozen=True)
class Preview:
    """The overview inside the page: the address (``data:``) of the picture, its file, and whether it is tall."""

    picture: str
    link: str
    is_tall: bool


def write_summary(run_dir: Path, reader: SlideReader) -> Path:
    """Write ``summary.html`` into the directory of a finished run of a slide, replacing an older one; returns its path.

    It shows ``overview.png`` if that is there already.

    Raises:
        InputError: there is no table, or the slide cannot be read any more.
    """
    table = by_taught(open_table(run_dir))
    statistics = gather(table, table.mpp or reader.mpp, EXAMPLES)
    kinds = _kinds(table, reader, statistics)
    mpp_x, mpp_y = table.mpp_xy or (reader.mpp, reader.mpp)
    size_um = reader.width * mpp_x, reader.height * mpp_y
    return write_page(
        run_dir / SUMMARY_NAME,
        "summary.html",
        title=table.slide,
        origin=origin(table.run),
        facts=facts(table, reader),
        warnings=table.run.get("warnings", ()),
        failed=table.run.get("failed_tiles", ()),
        failed_shown=FAILED_SHOWN,
        overview=_overview(run_dir),
        fields=show_fields(table, reader),
        field_side=SIDE_UM,
        outlined=has_outlines(table),
        densities=density_maps(table, *size_um) if table.count else None,
        beside=_beside(table, kinds),
        neighbours=NEIGHBOURS,
        fewest=FEWEST,
        kinds=kinds,
        most=max(*(kind.count for kind in kinds), 1),
        count=table.count,
        area=table.run.get("tissue_mm2") or None,
        sizes=_size_plot(kinds, statistics.diameters) if table.count else None,
        shapes=_shape_plots(kinds, statistics) if table.count else (),
        scores=_score_plot(kinds, statistics.scores) if table.count else None,
        size_bin=DIAMETER_BIN,
        score_bin=SCORE_BIN,
        field_um=FIELD_UM,
        map=embedding_chart(table, [kind.colour for kind in kinds]) if table.count else None,
        run=json.dumps(table.run, indent=2, ensure_ascii=False) if table.run else "",
    )


def facts(table: CellTable, reader: SlideReader) -> list[tuple[str, str]]:
    """Label and text of what was measured; a key that ``run.json`` lacks costs a fact, not the page."""
    (mpp_x, mpp_y), area = table.mpp_xy or (reader.mpp, reader.mpp), table.run.get("tissue_mm2")
    lines = [("cells", f"{table.count:,}")]
    if area:
        tissue = "tissue in the ROI" if table.run.get("options", {}).get("roi") else "tissue"
        lines += [(tissue, f"{area:,.2f} mm²"), ("cells per mm² of tissue", f"{table.count / area:,.0f}")]
    size = f"{reader.width * mpp_x / 1000:.2f} × {reader.height * mpp_y / 1000:.2f} mm"
    resolution = f"{mpp_x:.3g}" if f"{mpp_x:.3g}" == f"{mpp_y:.3g}" else f"{mpp_x:.3g} × {mpp_y:.3g}"
    lines += [("slide", size), ("resolution", f"{resolution} µm per pixel")]
    return [*lines, ("types", "taught by you (column taught_type)")] if table.taught_types else lines


def _kinds(table: CellTable, reader: SlideReader, statistics: Statistics) -> list[TypeSummary]:
    mpp, colours = table.mpp_xy or (reader.mpp, reader.mpp), table.colours
    diameters, scores = statistics.median_diameters(), statistics.median_scores()

    every = (statistics.surest, statistics.random, statistics.unsurest)
    picked = [cells for picks in every for cells in picks.cells]
    ids = [int(number) for cells in picked for number in cells[:, -1]]
    borders = dict(zip(ids, rings(table.take(table.rows_of(ids), ring_columns(table))), strict=True))

    def crops(picks: Picks, i: int) -> list[Crop]:
        return [crop_cell(reader, cell, borders[int(cell[-1])], mpp, table.types[i]) for cell in picks.cells[i]]

    return [
        TypeSummary(
            name,
            hex_colour(colours[name]),
            int(statistics.counts[i]),
            diameters[i],
            scores[i],
            *(crops(picks, i) for picks in every),
        )
        for i, name in enumerate(table.types)
    ]


def _overview(run_dir: Path) -> Preview | None:
    path = run_dir / OVERVIEW_NAME
    if not path.is_file():
        return None
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((INLINE_SIDE, INLINE_SIDE), Image.Resampling.LANCZOS)
    return Preview(jpeg_uri(picture, quality=85), OVERVIEW_NAME, picture.height > picture.width)


def rebin(histogram: NDArray[np.int64], factor: int, first: int, last: int) -> NDArray[np.float64]:
    """Percent of each row of a (K, bins) histogram in the wider bins ``first`` to ``last``, ``factor`` bins in each."""
    k = len(histogram)
    wide = histogram[:, first * factor : last * factor].reshape(k, last - first, factor).sum(axis=2)
    return 100 * wide / np.maximum(histogram.sum(axis=1, keepdims=True), 1)


def _extent(histogram: NDArray[np.int64], factor: int, tail: float) -> tuple[int, int]:
    """First and one past the last wide bin that hold all but a share ``tail`` of the cells at either end."""
    cumulative = np.cumsum(histogram.sum(axis=0)) / max(int(histogram.sum()), 1)
    low = int(np.searchsorted(cumulative, tail, side="right")) // factor
    high = int(np.searchsorted(cumulative, 1 - tail)) // factor + 1
    return low, min(max(high, low + 4), histogram.shape[1] // factor)


def _size_plot(kinds: Sequence[TypeSummary], sizes: NDArray[np.int64]) -> Plot:
    first, last = _extent(sizes, round(DIAMETER_BIN / DIAMETER_STEP), 0.003)
    labels = ("equivalent diameter, µm", "Histogram of nuclear size by type")
    return _plot(kinds, sizes, DIAMETER_STEP, DIAMETER_BIN, first, last, *labels)


def _shape_plots(kinds: Sequence[TypeSummary], statistics: Statistics) -> list[Plot]:
    """Of outlines eccentricity and solidity, of boxes how long they are."""
    if any(histogram.any() for histogram in statistics.shapes.values()):
        return [
            _plot(kinds, histogram, SHARE_STEP, SHARE_STEP, *_extent(histogram, 1, 0.003), name, f"Histogram of {name}")
            for name, histogram in statistics.shapes.items()
        ]
    first, last = _extent(statistics.ratios, 2, 0.003)
    labels = ("longer by shorter side of the box", "Histogram of how long boxes are")
    return [_plot(kinds, statistics.ratios, RATIO_STEP, 2 * RATIO_STEP, first, last, *labels)]


def _beside(table: CellTable, kinds: Sequence[TypeSummary]) -> Beside | None:
    """The types that there is something to say of."""
    found = neighbourhood(table)
    if found is None:
        return None
    shown = [i for i, kind in enumerate(kinds) if kind.count >= FEWEST]
    if not shown:
        return None
    rows = [
        [Pair(float(found.ratio[i, j]), float(found.z[i, j]), float(found.distances[i, j])) for j in shown]
        for i in shown
    ]
    return Beside([kinds[i] for i in shown], rows)


def _score_plot(kinds: Sequence[TypeSummary], scores: NDArray[np.int64]) -> Plot:
    factor = round(SCORE_BIN / SCORE_STEP)
    last = scores.shape[1] // factor
    first = min(_extent(scores, factor, 0)[0], last - 4)
    labels = ("detection score", "Histogram of detection scores by type")
    return _plot(kinds, scores, SCORE_STEP, SCORE_BIN, first, last, *labels)


def _plot(
    kinds: Sequence[TypeSummary],
    histogram: NDArray[np.int64],
    step: float,
    width: float,
    first: int,
    last: int,
    *labels: str,
) -> Plot:
    """Histograms of bins of ``step`` in the bins ``first`` to ``last`` of ``width``; ``labels``: of axis and chart."""
    edges = np.arange(first, last + 1, dtype=np.float64) * width
    shares = rebin(histogram, round(width / step), first, last)
    return histogram_plot(edges, shares, [kind.colour for kind in kinds], [kind.name for kind in kinds], *labels)


def embedding_chart(table: CellTable, colours: Sequence[str]) -> tuple[Scatter, str] | None:
    """Map of the embeddings and how it was made; None with too few cells."""
    found = map_embeddings(table)
    if found is None:
        return None
    title = "Map of the cell embeddings, coloured by type"
    return scatter_map(found.points, found.codes, colours, title), found.method
