"""``summary.html``: what was found on a slide, on one page, so that a pathologist can decide whether to believe it.

A single file without scripts or outside resources: it can be mailed, archived and printed, and opens the same in ten
years.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.cells.palette import hex_colour, type_colours
from celldetr.cells.reader import CellTable, open_table
from celldetr.report.charts import Plot, Scatter, histogram_plot, scatter_map
from celldetr.report.crops import FIELD_UM, Crop, crop_cell, jpeg_uri
from celldetr.report.embedding_map import map_embeddings
from celldetr.report.facts import facts, failed_tiles, origin, tissue_mm2
from celldetr.report.overview import OVERVIEW_NAME
from celldetr.report.page import write_page
from celldetr.report.statistics import DIAMETER_STEP, SCORE_STEP, Picks, Statistics, gather

if TYPE_CHECKING:
    from celldetr.slide.base_reader import SlideReader

SUMMARY_NAME = "summary.html"
EXAMPLES = 12  # crops a row
INLINE_SIDE = 1400  # px; the overview inside the page is a preview of overview.png
DIAMETER_BIN = 0.5  # um, of the chart
SCORE_BIN = 0.02
FAILED_SHOWN = 20  # rows


@dataclass(frozen=True)
class Kind:
    """What the page says of one type.

    Attributes:
        name: of the type.
        colour: CSS.
        count: of its cells.
        diameter: median equivalent diameter, um; NaN without a cell.
        score: median score; NaN without a cell.
        surest, random: examples.
    """

    name: str
    colour: str
    count: int
    diameter: float
    score: float
    surest: list[Crop]
    random: list[Crop]


@dataclass(frozen=True)
class Preview:
    """The overview inside the page: the address (``data:``) of the picture, its file, and whether it is tall."""

    picture: str
    link: str
    is_tall: bool


def write_summary(run_dir: Path, reader: SlideReader) -> Path:
    """Write ``summary.html`` into the directory of a finished run, replacing an older one.

    The overview is taken from ``overview.png`` if it is there already.

    Args:
        run_dir: holds ``cells.parquet`` and ``run.json``.
        reader: the slide they are of.

    Returns:
        The path written.

    Raises:
        InputError: there is no table, or the slide cannot be read any more.
    """
    table = open_table(run_dir)
    statistics = gather(table, table.mpp or reader.mpp, EXAMPLES)
    kinds = _kinds(table, reader, statistics)
    return write_page(
        run_dir / SUMMARY_NAME,
        "summary.html",
        title=table.slide,
        origin=origin(table),
        facts=facts(table, reader),
        warnings=table.run.get("warnings", ()),
        failed=failed_tiles(table),
        failed_shown=FAILED_SHOWN,
        overview=_overview(run_dir),
        kinds=kinds,
        most=max(*(kind.count for kind in kinds), 1),
        count=table.count,
        area=tissue_mm2(table),
        sizes=_size_plot(kinds, statistics) if table.count else None,
        scores=_score_plot(kinds, statistics) if table.count else None,
        size_bin=DIAMETER_BIN,
        score_bin=SCORE_BIN,
        field_um=FIELD_UM,
        map=embedding_chart(table, [kind.colour for kind in kinds]) if table.count else None,
        run=json.dumps(table.run, indent=2, ensure_ascii=False) if table.run else "",
    )


def _kinds(table: CellTable, reader: SlideReader, statistics: Statistics) -> list[Kind]:
    mpp, colours = table.mpp_xy or (reader.mpp, reader.mpp), type_colours(table.types)
    diameters, scores = statistics.median_diameters(), statistics.median_scores()

    def crops(picks: Picks, i: int) -> list[Crop]:
        return [crop_cell(reader, cell, mpp, table.types[i]) for cell in picks.cells[i]]

    return [
        Kind(
            name,
            hex_colour(colours[name]),
            int(statistics.counts[i]),
            diameters[i],
            scores[i],
            crops(statistics.surest, i),
            crops(statistics.random, i),
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


def _size_plot(kinds: Sequence[Kind], statistics: Statistics) -> Plot:
    sizes, factor = statistics.diameters, round(DIAMETER_BIN / DIAMETER_STEP)
    first, last = _extent(sizes, factor, 0.003)
    return histogram_plot(
        np.arange(first, last + 1, dtype=np.float64) * DIAMETER_BIN,
        rebin(sizes, factor, first, last),
        [kind.colour for kind in kinds],
        [kind.name for kind in kinds],
        "equivalent diameter, µm",
        "Histogram of nuclear size by type",
    )


def _score_plot(kinds: Sequence[Kind], statistics: Statistics) -> Plot:
    scores, factor = statistics.scores, round(SCORE_BIN / SCORE_STEP)
    last = scores.shape[1] // factor
    first = min(_extent(scores, factor, 0)[0], last - 4)
    return histogram_plot(
        np.arange(first, last + 1, dtype=np.float64) * SCORE_BIN,
        rebin(scores, factor, first, last),
        [kind.colour for kind in kinds],
        [kind.name for kind in kinds],
        "detection score",
        "Histogram of detection scores by type",
    )


def embedding_chart(table: CellTable, colours: Sequence[str]) -> tuple[Scatter, str] | None:
    """Map of the embeddings and how it was made; None with too few cells."""
    found = map_embeddings(table)
    if found is None:
        return None
    title = "Map of the cell embeddings, coloured by type"
    return scatter_map(found.points, found.codes, colours, title), found.method
