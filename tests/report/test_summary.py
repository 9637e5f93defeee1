"""The page: complete, self-contained, escaped, and there even when nothing was found."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celldetr.cells.reader import open_table
from celldetr.report.neighbourhood import neighbourhood
from celldetr.report.overview import write_overview
from celldetr.report.summary import rebin, write_summary
from helpers.cell_tables import TYPES, ArraySlide, random_cells, random_embeddings, write_run

VOID = {"meta", "img", "br", "image", "rect", "path"}


class Page(HTMLParser):
    """Collects text, addresses and tags; fails on a tag that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def summary(run: Path, slide: ArraySlide) -> Page:
    return Page(write_summary(run, slide).read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(run: Path, slide: ArraySlide) -> None:
    write_overview(run, slide)
    page = summary(run, slide)
    outside = {address for address in page.addresses if not re.match("data:image/(jpeg|png);base64,", address)}
    assert outside == {"overview.png"}
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    style = (run / "summary.html").read_text(encoding="utf-8").split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_warnings_come_before_the_numbers(tmp_path: Path, slide: ArraySlide) -> None:
    cells = random_cells(200, size=(600, 400))
    about = {"slide": "s.svs", "mpp": 0.5, "warnings": ["foreign tissue: look first"]}
    words = summary(write_run(tmp_path / "s", cells, random_embeddings(cells), about), slide).words
    assert 0 < words.index("foreign tissue: look first") < words.index("cells 200")


def test_neighbours_distances_and_examples_are_there(run: Path, slide: ArraySlide) -> None:
    words = summary(run, slide).words
    found = neighbourhood(open_table(run))
    assert f"{found.ratio[0, 1]:.2f} × z {found.z[0, 1]:+,.1f}" in words
    assert f"{found.distances[1, 2]:.1f}" in words
    assert words.count("Most confident") == words.count("Least confident") == len(TYPES)


def test_counts_are_those_of_the_table(run: Path, slide: ArraySlide) -> None:
    words = summary(run, slide).words
    counts = random_cells(200, size=(600, 400))["type"].value_counts()
    for name in TYPES:
        assert f"{name} {100 * counts[name] / 200:.1f} % {counts[name]} " in words


def test_examples_show_the_cells(run: Path, slide: ArraySlide) -> None:
    cells = random_cells(200, size=(600, 400))
    # The slide is black where the surest stromal cell is: its crop, the first of the type, must be black in the middle.
    confidence = (cells["score"] * cells["type_score"])[cells["type"] == "stromal"]
    x, y = cells.loc[confidence.idxmax(), ["x_px", "y_px"]].astype(int)
    slide.pixels[max(y - 6, 0) : y + 6, max(x - 6, 0) : x + 6] = 0
    page = summary(run, slide)
    crops = page.addresses[-3 * 3 * 12 :]  # the last pictures of the page, of three types and in three rows each
    assert all(address.startswith("data:image/jpeg") for address in crops)
    image = Image.open(io.BytesIO(base64.b64decode(crops[2 * 3 * 12].split(",")[1])))
    middle = np.asarray(image)[50:62, 50:62]
    assert middle.mean() < 10
    assert np.asarray(image).mean() > 150


def test_names_and_provenance_cannot_become_markup(tmp_path: Path, slide: ArraySlide) -> None:
    evil = '<script>alert("&")</script>'
    types = (evil, "<b>", "'\"><img src=http://x.y/z>")
    cells = random_cells(60, types, size=(600, 400))
    run = write_run(
        tmp_path / "s",
        cells,
        random_embeddings(cells, types),
        {"slide": evil.replace("/", "\\"), "mpp": 0.5, "model": {"name": evil}, "warnings": [evil], "x": evil},
    )
    page = summary(run, slide)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert all(address.startswith("data:") for address in page.addresses)
    assert evil in page.words


def test_a_slide_without_cells_has_a_page(empty_run: Path, slide: ArraySlide) -> None:
    write_overview(empty_run, slide)
    words = summary(empty_run, slide).words
    assert "No cells were found" in words
    assert "nan" not in words.lower()


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_handful_of_cells_is_enough(tmp_path: Path, slide: ArraySlide, n: int) -> None:
    cells = random_cells(n)
    words = summary(write_run(tmp_path / "s", cells, random_embeddings(cells)), slide).words
    assert "100.0 %" in words or n > 1
    assert "nan" not in words


@pytest.mark.parametrize("run_json", [{}, {"tissue_mm2": 0}])
def test_missing_provenance_costs_facts_not_the_page(
    tmp_path: Path, slide: ArraySlide, run_json: dict[str, Any]
) -> None:
    cells = random_cells(20, size=(600, 400))
    words = summary(write_run(tmp_path / "s", cells, random_embeddings(cells), run_json), slide).words
    assert "0.30 × 0.20 mm" in words  # 600 x 400 px at the slide's own 0.5


def test_the_page_can_be_made_again(run: Path, slide: ArraySlide) -> None:
    first = write_summary(run, slide).read_text(encoding="utf-8")
    assert write_summary(run, slide).read_text(encoding="utf-8") == first
    assert sorted(path.name for path in run.iterdir()) == ["cells.parquet", "run.json", "summary.html"]
    assert json.loads((run / "run.json").read_text())["mpp"] == 0.5


def test_rebinning_keeps_the_shares() -> None:
    histogram = np.array([[1, 1, 2, 4, 0, 2], [0, 0, 0, 0, 0, 0]])
    assert rebin(histogram, 2, 0, 3).tolist() == [[20, 60, 20], [0, 0, 0]]
    assert rebin(histogram, 3, 1, 2).tolist() == [[60], [0]]
