"""``summary.html``: one page that tells what was found on a slide and lets a pathologist judge whether to believe it.

A single file without scripts or outside resources: it can be mailed, archived and printed, and opens the same in ten
years. Everything that is not ours (names, warnings, provenance) is escaped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.cells.palette import hex_colour, type_colours
from celldetr.cells.reader import CellTable, open_table
from celldetr.io.files import replacing
from celldetr.report.charts import histogram_chart, map_chart
from celldetr.report.crops import FIELD_UM, crop_figure, jpeg_uri
from celldetr.report.embedding_map import map_embeddings
from celldetr.report.facts import facts, failed_tiles, origin, tissue_mm2
from celldetr.report.overview import OVERVIEW_NAME
from celldetr.report.page import document, number, swatch
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
class Page:
    """What every section needs.

    Attributes:
        table: the cells.
        reader: the slide.
        mpp: micrometres per level-0 pixel along x and y.
        colours: CSS colour of each of the K types.
        statistics: counts, distributions, examples.
    """

    table: CellTable
    reader: SlideReader
    mpp: tuple[float, float]
    colours: list[str]
    statistics: Statistics


def _legend(page: Page) -> str:
    entries = zip(page.table.types, page.colours, page.statistics.counts, strict=True)
    shown = [f"<span>{swatch(colour)}{escape(name)}</span>" for name, colour, count in entries if count]
    return f'<div class="legend">{"".join(shown)}</div>'


def _header(page: Page) -> str:
    shown = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts(page.table, page.reader))
    warnings = "".join(f"<li>{escape(sentence)}</li>" for sentence in page.table.run.get("warnings", ()))
    warnings = f'<ul class="warnings">{warnings}</ul>' if warnings else ""
    made_by = f'<p class="lead">{escape(origin(page.table))}</p>' if origin(page.table) else ""
    return f'<h1>{escape(page.table.slide)}</h1>{made_by}<dl class="facts">{shown}</dl>{warnings}'


def _not_decoded(page: Page) -> str:
    """The places that are missing, so that nobody takes them for tissue without cells."""
    failed = failed_tiles(page.table)
    if not failed:
        return ""
    rows = "".join(
        f"<tr><td>{x:,.0f}</td><td>{y:,.0f}</td><td>{w:,.0f}</td><td>{h:,.0f}</td>"
        f'<td class="text">{escape(reason)}</td></tr>'
        for (x, y, w, h), reason in failed[:FAILED_SHOWN]
    )
    rest = len(failed) - FAILED_SHOWN
    more = f'<p class="note">and {rest:,} more, see failed_tiles in run.json</p>' if rest > 0 else ""
    head = "<tr><th>x, px</th><th>y, px</th><th>width</th><th>height</th><th></th></tr>"
    return (
        '<h2>Not decoded</h2><p class="note">The slide is damaged here. No cell was looked for in these places: counts '
        f"are without them, and densities, which divide by all tissue, are too low.</p>"
        f'<div class="wide"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>{more}'
    )


def _overview(run_dir: Path) -> tuple[str, bool]:
    """The picture of the slide, and whether it is tall, so that something should stand beside it."""
    path = run_dir / OVERVIEW_NAME
    if not path.is_file():
        return "", False
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((INLINE_SIDE, INLINE_SIDE), Image.Resampling.LANCZOS)
    source = jpeg_uri(picture, quality=85)
    caption = "Every cell in the colour of its type. The picture opens at full size."
    figure = (
        f'<h2>Overview</h2><figure><a href="{OVERVIEW_NAME}"><img src="{source}" alt="The slide with its cells"></a>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
    return figure, picture.height > picture.width


def _count_row(page: Page, i: int, area: float | None, most: int) -> str:
    count, total = int(page.statistics.counts[i]), page.table.count
    colour, share = page.colours[i], 100 * count / total
    bar = f'<i style="width:calc((100% - 4rem) * {count / most:.3f});background:{colour}"></i>' if count else ""
    density = f"<td>{count / area:,.0f}</td>" if area else ""
    diameter = page.statistics.median_diameters()[i]
    score = page.statistics.median_scores()[i]
    return (
        f"<tr><td>{swatch(colour)}{escape(page.table.types[i])}</td>"
        f'<td class="share"><span class="bar">{bar}{share:.1f} %</span></td><td>{count:,}</td>{density}'
        f"<td>{number(diameter, '.1f')}</td><td>{number(score, '.2f')}</td></tr>"
    )


def _counts(page: Page) -> str:
    area, total = tissue_mm2(page.table), page.table.count
    most = max(int(page.statistics.counts.max(initial=0)), 1)
    rows = "".join(_count_row(page, i, area, most) for i in range(len(page.table.types)))
    density = "<th>per mm²<br>of tissue</th>" if area else ""
    total_density = f"<td>{total / area:,.0f}</td>" if area else ""
    return (
        '<h2>Cells by type</h2><div class="wide"><table><thead><tr><th>type</th><th></th><th>cells</th>'
        f"{density}<th>median<br>diameter, µm</th><th>median<br>score</th></tr></thead><tbody>{rows}</tbody>"
        f'<tfoot><tr><td>all</td><td class="share"></td><td>{total:,}</td>{total_density}<td></td><td></td></tr>'
        "</tfoot></table></div>"
    )


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


def _size_chart(page: Page) -> str:
    sizes, factor = page.statistics.diameters, round(DIAMETER_BIN / DIAMETER_STEP)
    first, last = _extent(sizes, factor, 0.003)
    return histogram_chart(
        np.arange(first, last + 1, dtype=np.float64) * DIAMETER_BIN,
        rebin(sizes, factor, first, last),
        page.colours,
        page.table.types,
        "equivalent diameter, µm",
        "Histogram of nuclear size by type",
    )


def _score_chart(page: Page) -> str:
    scores, factor = page.statistics.scores, round(SCORE_BIN / SCORE_STEP)
    last = scores.shape[1] // factor
    first = min(_extent(scores, factor, 0)[0], last - 4)
    return histogram_chart(
        np.arange(first, last + 1, dtype=np.float64) * SCORE_BIN,
        rebin(scores, factor, first, last),
        page.colours,
        page.table.types,
        "detection score",
        "Histogram of detection scores by type",
    )


def _distributions(page: Page) -> str:
    size = (
        "Equivalent diameter, √(width × height) of the box. "
        f"Percent of the cells of each type in bins of {DIAMETER_BIN:g} µm."
    )
    score = (
        "How sure the detector is that there is a nucleus, whatever its type. "
        f"Percent of the cells of each type in bins of {SCORE_BIN:g}."
    )
    return (
        f'<h2>Size and confidence</h2>{_legend(page)}<div class="pair">'
        f"<figure>{_size_chart(page)}<figcaption>{size}</figcaption></figure>"
        f"<figure>{_score_chart(page)}<figcaption>{score}</figcaption></figure></div>"
    )


def _crop_row(page: Page, picks: Picks, i: int, label: str) -> str:
    name, colour = page.table.types[i], page.colours[i]
    shown = "".join(crop_figure(page.reader, cell, page.mpp, colour, name) for cell in picks.cells[i])
    return f'<p class="note">{label}</p><div class="crops">{shown}</div>'


def _examples(page: Page) -> str:
    sections = []
    for i, name in enumerate(page.table.types):
        if page.statistics.counts[i]:
            heading = f"<h3>{swatch(page.colours[i])}{escape(name)}</h3>"
            surest = _crop_row(page, page.statistics.surest, i, "Most confident")
            sections.append(heading + surest + _crop_row(page, page.statistics.random, i, "Drawn at random"))
    note = f"Each picture shows {FIELD_UM:g} × {FIELD_UM:g} µm. Pointing at one tells its scores and its place."
    return f'<h2>Examples</h2><p class="note">{note}</p>{"".join(sections)}'


def _map(page: Page) -> str:
    found = map_embeddings(page.table)
    if found is None:
        return ""
    chart = map_chart(found.points, found.codes, page.colours, "Map of the cell embeddings, coloured by type")
    caption = f"{found.method} Near cells look alike to the network; distances between far groups mean little."
    return (
        f'<h2>Embedding map</h2><figure class="map">{chart}'
        f"<figcaption>{_legend(page)}<p>{escape(caption)}</p></figcaption></figure>"
    )


def _provenance(page: Page) -> str:
    if not page.table.run:
        return ""
    text = escape(json.dumps(page.table.run, indent=2, ensure_ascii=False))
    return f"<details><summary>How this was made (run.json)</summary><pre>{text}</pre></details>"


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
    colours = type_colours(table.types)
    statistics = gather(table, table.mpp or reader.mpp, EXAMPLES)
    sides = table.mpp_xy or (reader.mpp, reader.mpp)
    page = Page(table, reader, sides, [hex_colour(colours[name]) for name in table.types], statistics)
    overview, tall = _overview(run_dir)
    body = [_header(page), _not_decoded(page)]
    if table.count:
        numbers = _counts(page) + _distributions(page)
        layout = ' class="beside"' if tall else ""
        body.append(f"<div{layout}><section>{overview}</section><section>{numbers}</section></div>")
        body += [_examples(page), _map(page)]
    else:
        body += [overview, '<h2>Cells by type</h2><p class="lead">No cells were found on this slide.</p>']
    body.append(_provenance(page))
    target = run_dir / SUMMARY_NAME
    with replacing(target) as temporary:
        temporary.write_text(document(table.slide, body), encoding="utf-8")
    return target
