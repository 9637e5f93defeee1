"""The site: tutorials run and end with a picture, every page has a place in it, and the pages of models are current."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import celldetr
from celldetr.model.hub import PACKAGED

pytest.importorskip("nbclient", reason="needs the extra docs")

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.ipynb"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Imports a script of docs/."""
    monkeypatch.syspath_prepend(str(DOCS))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return __import__(name)

    yield load
    for name in {"hooks", "model_cards", "notebooks"} & (set(sys.modules) - before):
        del sys.modules[name]


class _Loader(yaml.SafeLoader):
    """mkdocs.yml without the Python objects in it."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def pages_in_the_nav() -> list[str]:
    def walk(part: object) -> list[str]:
        if isinstance(part, str):
            return [part]
        return [page for each in (part.values() if isinstance(part, dict) else part) for page in walk(each)]

    return walk(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"])


def test_every_page_has_one_place_in_the_site() -> None:
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    tutorials = [path.relative_to(DOCS).with_suffix(".md").as_posix() for path in TUTORIALS]
    listed = [page for page in pages_in_the_nav() if not page.startswith("repository/")]
    assert sorted(listed) == sorted([*pages, *tutorials])


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_are_kept_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert "".join(cells[0]["source"]).startswith("# ")
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_run_and_end_with_a_picture(path: Path, script) -> None:
    notebooks = script("notebooks")
    notebook = notebooks.executed(path)
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert any("image/png" in output.get("data", {}) for output in last.outputs)
    page, pictures = notebooks.as_page(path.stem, notebook)
    drawn = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    assert drawn == list(pictures)
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())


def test_pages_of_models_are_current(script) -> None:
    pages = script("model_cards").pages()
    assert {path.stem for path in pages} == {folder.name for folder in PACKAGED.iterdir() if folder.is_dir()}
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, "run `make docs-cards`"
        by_hand = text.partition(script("model_cards").BY_HAND)[2]
        assert "## Known failures" in by_hand
        assert "](../images/" in by_hand


def test_links_out_of_the_docs_stay_in_the_site(script) -> None:
    hooks = script("hooks")
    assert hooks.linked(
        "docs/how-to/x.md", "[log](../../benchmarks/results/a.txt#top) [y](y.md) [z](https://z.org)"
    ) == [
        "benchmarks/results/a.txt",
        "docs/how-to/y.md",
    ]


def test_nothing_is_loaded_from_elsewhere(script) -> None:
    hooks = script("hooks")
    assert hooks.ELSEWHERE.search('<script defer src="https://x.org/a.js"></script>')
    assert hooks.ELSEWHERE.search('<link rel="stylesheet" href="https://x.org/a.css">')
    assert not hooks.ELSEWHERE.search('<script src="assets/a.js"></script><a href="https://x.org">x</a>')


def test_every_public_name_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: celldetr\.(\w+)$", page, re.MULTILINE)) == sorted(celldetr.__all__)
