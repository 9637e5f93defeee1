"""``cohort.html``: the slides of a run on one page, made from ``cohort.parquet`` alone, with links to their pages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from celldetr.cells.palette import hex_colour, type_colours
from celldetr.io.parquet import parquet_errors
from celldetr.report.charts import Plot, Strip, strip_plot
from celldetr.report.crops import jpeg_uri
from celldetr.report.overview import OVERVIEW_NAME
from celldetr.report.page import duration, origin, write_page
from celldetr.report.summary import SUMMARY_NAME

COHORT_PAGE = "cohort.html"
COHORT_KEY = b"celldetr.cohort"  # of the table's metadata: what is of the run, as JSON
WARNINGS_SHOWN = 20  # of a kind
PICTURES, PICTURE_SIDE = 60, 320  # slides that are shown, and px of their pictures
ROWS_SHOWN = 2000  # slides; what a browser scrolls with ease


@dataclass(frozen=True)
class Cohort:
    """The slides of a run: rows of the table, names and CSS colours of the types, and the metadata of the run."""

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


@dataclass(frozen=True)
class TypeDensity:
    """One type: its name, CSS colour, cells, and quartiles of its density over slides."""

    name: str
    colour: str
    count: float
    quartiles: list[float | None]


def write_cohort_page(table: Path) -> Path:
    """Write ``cohort.html`` beside ``table``, replacing an older one; returns its path."""
    cohort = _read(table)
    kinds = [_kind(cohort, name, colour) for name, colour in zip(cohort.types, cohort.colours, strict=True)]
    return write_page(
        table.with_name(COHORT_PAGE),
        "cohort.html",
        title=f"{len(cohort.rows):,} slide{'s' * (len(cohort.rows) != 1)}",
        origin=origin(cohort.about),
        facts=_facts(cohort),
        warnings=_warnings(cohort),
        pictures=_pictures(cohort, table.parent),
        bad=[row for row in cohort.rows if row["status"] != "complete"],
        kinds=kinds,
        most=max([*(kind.count for kind in kinds), 1]),
        cells=cohort.total("cells"),
        area=cohort.total("tissue_mm2"),
        densities=_densities(cohort) if cohort.done and kinds else None,
        rows=cohort.rows,
        rows_shown=ROWS_SHOWN,
        warnings_shown=WARNINGS_SHOWN,
        summary=SUMMARY_NAME,
    )


def _read(path: Path) -> Cohort:
    with parquet_errors(path):
        table = pq.read_table(path)
    about = json.loads((table.schema.metadata or {}).get(COHORT_KEY, b"{}"))
    types = [name[2:] for name in table.column_names if name.startswith("n_")]
    colours = type_colours(types)
    return Cohort(table.to_pylist(), types, [hex_colour(colours[name]) for name in types], about)


def _facts(cohort: Cohort) -> list[tuple[str, str]]:
    cells, area = cohort.total("cells"), cohort.total("tissue_mm2")
    partial = sum(row["status"] == "partial" for row in cohort.rows)
    facts = [("slides done", f"{len(cohort.done):,} of {len(cohort.rows):,}")]
    if partial:
        facts.append(("damaged in places", f"{partial:,}"))
    facts += [("cells", f"{cells:,.0f}"), ("tissue", f"{area:,.2f} mm²")]
    if area:
        facts.append(("cells per mm² of tissue", f"{cells / area:,.0f}"))
    return [*facts, ("time", duration(cohort.about.get("seconds")))]


def _kind(cohort: Cohort, name: str, colour: str) -> TypeDensity:
    densities = cohort.values(f"density_{name}")
    quartiles = [float(np.quantile(densities, q)) if len(densities) else None for q in (0.25, 0.5, 0.75)]
    return TypeDensity(name, colour, cohort.total(f"n_{name}"), quartiles)


def _warnings(cohort: Cohort) -> list[tuple[str, list[str]]]:
    """Slides with their warnings, those of one kind together: kind, and lines of a slide and what is said of it."""
    kinds: dict[str, list[str]] = {}
    for row in cohort.rows:
        for sentence in row.get("warnings") or ():
            kinds.setdefault(sentence.partition(":")[0], []).append(f"{row['slide']}: {sentence}")
    return sorted(kinds.items(), key=lambda item: -len(item[1]))


def _pictures(cohort: Cohort, folder: Path) -> list[tuple[str, str]]:
    """Names of slides and small copies of their overviews (``data:``), of the first that have one."""
    pictures: list[tuple[str, str]] = []
    for row in cohort.done:
        path = folder / str(row["slide"]) / OVERVIEW_NAME
        if len(pictures) < PICTURES and path.is_file():
            with Image.open(path) as image:
                small = image.convert("RGB")
            small.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
            pictures.append((str(row["slide"]), jpeg_uri(small)))
    return pictures


def _densities(cohort: Cohort) -> tuple[Plot, list[Strip]]:
    return strip_plot(
        [cohort.values(f"density_{name}") for name in cohort.types],
        cohort.colours,
        cohort.types,
        "cells per mm² of tissue",
        "Densities of cells by type, a dot a slide",
    )
