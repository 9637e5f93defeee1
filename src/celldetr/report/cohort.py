"""``cohort.html``: what a run over many slides has found, on one page; made from ``cohort.parquet`` alone.

It links to the pages of the slides, so it is of use beside their folders, and complete without them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from celldetr.cells.palette import hex_colour, type_colours
from celldetr.errors import InputError
from celldetr.io.files import replacing
from celldetr.report.charts import strip_chart
from celldetr.report.page import document, duration, number, swatch
from celldetr.report.summary import SUMMARY_NAME

COHORT_PAGE = "cohort.html"
COHORT_KEY = b"celldetr.cohort"  # of the table's metadata: what is of the run, as JSON
ROWS_SHOWN = 2000  # slides; what a browser scrolls with ease
REASONS_SHOWN = 200


@dataclass(frozen=True)
class Cohort:
    """The slides of a run.

    Attributes:
        rows: the table's, as dictionaries.
        types: names of the types, in the model's order.
        colours: CSS, of these.
        about: model, version, seconds, end of the run.
    """

    rows: list[dict[str, Any]]
    types: list[str]
    colours: list[str]
    about: dict[str, Any]

    @property
    def done(self) -> list[dict[str, Any]]:
        """Rows of slides that have a result."""
        return [row for row in self.rows if row["status"] != "failed"]

    def total(self, column: str) -> float:
        """Sum of a column over all slides that have it."""
        return float(sum(row[column] or 0 for row in self.rows))

    def values(self, column: str) -> NDArray[np.float64]:
        """(n,) values of a column, of the slides that have it."""
        return np.array([row[column] for row in self.rows if row[column] is not None], dtype=np.float64)


def write_cohort_page(table: Path) -> Path:
    """Write ``cohort.html`` beside ``cohort.parquet``, replacing an older one.

    Args:
        table: ``cohort.parquet``.

    Returns:
        The path written.

    Raises:
        InputError: there is no such table, or the page cannot be written.
    """
    cohort = _read(table)
    body = [_header(cohort), _failures(cohort)]
    if cohort.done and cohort.types:
        body += [_types(cohort), _densities(cohort)]
    body.append(_slides(cohort))
    target = table.with_name(COHORT_PAGE)
    with replacing(target) as temporary:
        temporary.write_text(document(_plural(len(cohort.rows)), body), encoding="utf-8")
    return target


def _read(path: Path) -> Cohort:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    about = json.loads((table.schema.metadata or {}).get(COHORT_KEY, b"{}"))
    types = [name[2:] for name in table.column_names if name.startswith("n_")]
    colours = type_colours(types)
    return Cohort(table.to_pylist(), types, [hex_colour(colours[name]) for name in types], about)


def _plural(count: int) -> str:
    return f"{count:,} slide{'s' * (count != 1)}"


def _header(cohort: Cohort) -> str:
    cells, area = cohort.total("cells"), cohort.total("tissue_mm2")
    partial = sum(row["status"] == "partial" for row in cohort.rows)
    facts = [("slides done", f"{len(cohort.done):,} of {len(cohort.rows):,}")]
    if partial:
        facts.append(("damaged in places", f"{partial:,}"))
    facts += [("cells", f"{cells:,.0f}"), ("tissue", f"{area:,.2f} mm²")]
    if area:
        facts.append(("cells per mm² of tissue", f"{cells / area:,.0f}"))
    facts.append(("time", duration(cohort.about.get("seconds"))))
    shown = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
    model, version = (cohort.about.get("model") or {}).get("name"), cohort.about.get("version")
    day = str(cohort.about.get("ended") or "").split("T")[0]
    parts = (f"model {model}" if model else "", f"CellDETR {version}" if version else "", day)
    origin = " · ".join(part for part in parts if part)
    return f'<h1>{_plural(len(cohort.rows))}</h1><p class="lead">{escape(origin)}</p><dl class="facts">{shown}</dl>'


def _failures(cohort: Cohort) -> str:
    """What is missing, before all that is there."""
    bad = [row for row in cohort.rows if row["status"] != "complete"]
    if not bad:
        return ""
    rows = "".join(
        f'<tr><td class="name">{escape(row["slide"])}</td><td><span class="bad">{escape(row["status"])}</span></td>'
        f'<td class="text">{escape(row["reason"] or "")}</td></tr>'
        for row in bad[:REASONS_SHOWN]
    )
    rest = len(bad) - REASONS_SHOWN
    more = f'<p class="note">and {rest:,} more, see cohort.parquet</p>' if rest > 0 else ""
    note = (
        "Slides that failed are not in the numbers below. Of those that are damaged in places, the cells there are "
        "missing: their densities are too low."
    )
    head = '<tr><th>slide</th><th></th><th style="text-align:left">reason</th></tr>'
    return (
        f'<h2>Failed or damaged</h2><p class="note">{note}</p><div class="wide"><table><thead>{head}</thead>'
        f"<tbody>{rows}</tbody></table></div>{more}"
    )


def _types(cohort: Cohort) -> str:
    area, total = cohort.total("tissue_mm2"), max(cohort.total("cells"), 1)
    counts = [cohort.total(f"n_{name}") for name in cohort.types]
    most, rows = max([*counts, 1]), []
    for name, colour, count in zip(cohort.types, cohort.colours, counts, strict=True):
        bar = f'<i style="width:calc((100% - 4rem) * {count / most:.3f});background:{colour}"></i>' if count else ""
        densities = cohort.values(f"density_{name}")
        spread = "".join(f"<td>{number(_quantile(densities, q))}</td>" for q in (0.25, 0.5, 0.75))
        rows.append(
            f'<tr><td>{swatch(colour)}{escape(name)}</td><td class="share"><span class="bar">{bar}'
            f"{100 * count / total:.1f} %</span></td><td>{count:,.0f}</td>"
            f"<td>{number(count / area if area else None)}</td>{spread}</tr>"
        )
    foot = f"<td>{cohort.total('cells'):,.0f}</td><td>{number(cohort.total('cells') / area if area else None)}</td>"
    return (
        '<h2>Cells by type</h2><div class="wide"><table><thead><tr><th>type</th><th></th><th>cells</th><th>per mm²<br>'
        "of tissue</th><th>of slides:<br>lower quartile</th><th><br>median</th><th><br>upper quartile</th></tr></thead>"
        f'<tbody>{"".join(rows)}</tbody><tfoot><tr><td>all</td><td class="share"></td>{foot}<td></td><td></td><td></td>'
        "</tr></tfoot></table></div>"
    )


def _quantile(values: NDArray[np.float64], q: float) -> float | None:
    return float(np.quantile(values, q)) if len(values) else None


def _densities(cohort: Cohort) -> str:
    chart = strip_chart(
        [cohort.values(f"density_{name}") for name in cohort.types],
        cohort.colours,
        cohort.types,
        "cells per mm² of tissue",
        "Densities of cells by type, a dot a slide",
    )
    caption = "A dot is a slide, the line their median."
    return f'<h2>Densities</h2><figure class="map">{chart}<figcaption>{caption}</figcaption></figure>'


def _slides(cohort: Cohort) -> str:
    heads = "".join(f"<th>{swatch(c)}{escape(n)}</th>" for n, c in zip(cohort.types, cohort.colours, strict=True))
    rows = "".join(_slide_row(cohort, row) for row in cohort.rows[:ROWS_SHOWN])
    rest = len(cohort.rows) - ROWS_SHOWN
    more = f'<p class="note">and {rest:,} more, see cohort.parquet</p>' if rest > 0 else ""
    note = "Numbers by type are cells per mm² of tissue. A name opens the page of its slide."
    head = (
        "<tr><th>slide</th><th>tissue, mm²</th><th>cells</th><th>per mm²</th>"
        + ("<th></th>" if cohort.types else "")
        + f"{heads}<th>time</th></tr>"
    )
    return (
        f'<h2>Slides</h2><p class="note">{note}</p><div class="wide"><table class="slides"><thead>{head}</thead>'
        f"<tbody>{rows}</tbody></table></div>{more}"
    )


def _slide_row(cohort: Cohort, row: dict[str, Any]) -> str:
    name = escape(row["slide"])
    if row["status"] == "failed":
        empty = "<td>–</td>" * (4 + len(cohort.types) + bool(cohort.types))
        return f'<tr><td class="name">{name} <span class="bad">failed</span></td>{empty}</tr>'
    mark = "" if row["status"] == "complete" else f' <span class="bad">{escape(row["status"])}</span>'
    link = f'<a href="{escape(quote(row["slide"]))}/{SUMMARY_NAME}">{name}</a>'
    cells, stack = row["cells"] or 0, ""
    for kind, colour in zip(cohort.types, cohort.colours, strict=True):
        count = row[f"n_{kind}"] or 0
        if count:
            stack += f'<i title="{escape(kind)}" style="width:{100 * count / cells:.1f}%;background:{colour}"></i>'
    composition = f'<td><span class="stack">{stack}</span></td>' if cohort.types else ""
    by_type = "".join(f"<td>{number(row[f'density_{kind}'])}</td>" for kind in cohort.types)
    return (
        f'<tr><td class="name">{link}{mark}</td><td>{number(row["tissue_mm2"], ",.2f")}</td><td>{cells:,}</td>'
        f"<td>{number(row['cells_per_mm2'])}</td>{composition}{by_type}<td>{duration(row['seconds'])}</td></tr>"
    )
