"""The table and the page that sum a run up."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from celldetr.cohort.request import Outcome, one_line
from celldetr.cohort.table import COHORT, write_cohort
from celldetr.errors import InputError
from celldetr.report.cohort import write_cohort_page
from celldetr.slide.damage import FailedTile
from celldetr.slide.engine import RunSummary
from celldetr.slide.find import Slide

EVIL = "<img src=x onerror=alert(1)> & 'co'"


class Checker(HTMLParser):
    """Collects tags, and refuses one that closes another than was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "br", "img", "path"):
            assert self.open.pop() == tag


def outcome(out: Path, name: str, counts: dict[str, int], area: float, lost: bool = False) -> Outcome:
    directory = out / name
    directory.mkdir()
    run = {"width": 100, "height": 80, "mpp": 0.5, "tiles": {"read": 3}, "read_mm2": area, "model": {"name": "m"}}
    (directory / "run.json").write_text(json.dumps(run | {"seconds": {"read": 1.5, "model": 2.0}}))
    failed = (FailedTile(0, 0, 0, 0, 9, 9, 0.1, f"bad {EVIL}"),) if lost else ()
    summary = RunSummary(directory, sum(counts.values()), counts, area, 12.5, ("doubtful",), failed)
    return Outcome(Slide(Path("in") / f"{name}.svs"), summary)


@pytest.fixture
def outcomes(tmp_path: Path) -> list[Outcome]:
    return [
        outcome(tmp_path, "b # 50%", {"tumor": 10, EVIL: 30}, 2.0),
        Outcome(Slide(Path(f"in/{EVIL}.svs")), None, f"no such file {EVIL}"),
        outcome(tmp_path, "a", {"tumor": 4, EVIL: 0}, 0.0, lost=True),
    ]


def test_a_row_a_slide(outcomes: list[Outcome], tmp_path: Path) -> None:
    table = pq.read_table(write_cohort(tmp_path, outcomes, 60))
    rows = {row["slide"]: row for row in table.to_pylist()}
    assert list(rows) == sorted(rows)
    full = rows["b # 50%"]
    assert (full["status"], full["cells"], full["cells_per_mm2"]) == ("complete", 40, 20)
    assert (full["n_tumor"], full["density_tumor"], full[f"density_{EVIL}"]) == (10, 5, 15)
    assert (full["seconds"], full["seconds_model"], full["mpp"], full["tiles"]) == (12.5, 2.0, 0.5, 3)
    assert (rows["a"]["status"], rows["a"]["failed_tiles"], rows["a"]["cells_per_mm2"]) == ("partial", 1, None)
    failed = rows[EVIL]
    assert (failed["status"], failed["reason"], failed["cells"]) == ("failed", f"no such file {EVIL}", None)


def test_the_page_stands_alone(outcomes: list[Outcome], tmp_path: Path) -> None:
    page = write_cohort_page(write_cohort(tmp_path, outcomes, 60)).read_text()
    check = Checker()
    check.feed(page)
    assert not check.open
    tags = {tag for tag, _ in check.seen}
    assert not tags & {"img", "script", "link", "iframe"}  # what EVIL would bring, and what must be brought
    assert {attributes["href"] for tag, attributes in check.seen if tag == "a"} == {
        "a/summary.html",
        "b%20%23%2050%25/summary.html",
    }
    assert "2 of 3" in page
    assert "no such file" in page
    assert "http" not in page.split("<body", 1)[1]


def test_a_page_without_a_result(tmp_path: Path) -> None:
    failed = [Outcome(Slide(Path("x.svs")), None, "no such file")]
    assert "0 of 1" in write_cohort_page(write_cohort(tmp_path, failed, 1)).read_text()
    with pytest.raises(InputError, match="not a readable Parquet file"):
        write_cohort_page(tmp_path / "absent" / COHORT)


def test_reasons_are_one_line() -> None:
    assert one_line(InputError("a\nb")) == "a b"
    assert one_line(MemoryError()) == "MemoryError"
    assert one_line(RuntimeError("of\ncuda")) == "RuntimeError: of cuda"
