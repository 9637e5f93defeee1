"""README, docs and docstrings: links lead somewhere, code runs, and tables that list what exists list all of it."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import re
import shutil
import tomllib
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

import celldetr
from celldetr.config import parse
from celldetr.data.card import CARDS, DatasetCard, load_card
from celldetr.evaluation.protocols import PROTOCOLS
from celldetr.evaluation.report import write_metrics
from celldetr.evaluation.score import score_images
from celldetr.io.safe_io import yaml_names
from helpers.cell_tables import random_cells, random_embeddings, write_run
from helpers.sample_crop import crop, default_model
from helpers.scenes import TYPES, random_image
from helpers.synthetic import svs

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ANNOTATION = {"type": "Polygon", "coordinates": [[[20, 20], [280, 20], [280, 280], [20, 280], [20, 20]]]}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# Links


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text_of(page)):
            name, _, anchor = target.partition("#")
            path = page.parent / name if name else page
            if not path.exists() or (anchor and anchor not in anchors(path)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        seen.add(page)
        linked = {(page.parent / name).resolve() for name in re.findall(r"\]\(([^)#\s:]+\.md)", text_of(page))}
        left += [path for path in linked if path not in seen and path.is_file()]
    assert {path for path in PAGES if path.parent != ROOT} - seen == set()


def test_every_example_is_linked() -> None:
    linked = {name for page in PAGES for name in re.findall(r"\]\([./]*examples/(\w+\.py)\)", text_of(page))}
    assert linked == {path.name for path in (ROOT / "examples").glob("*.py")}


def test_files_that_are_named_exist() -> None:
    """By their paths from the root of the repository."""
    named = {path for page in PAGES for path in re.findall(r"`([a-z_]+/[\w/-]+\.(?:py|yaml|ts|sh))`", text_of(page))}
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_dependency_has_a_reason() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    section = text_of(ROOT / "docs" / "design.md").partition("\n## Dependencies\n")[2].partition("\n## ")[0]
    reasons = re.findall(r"^\| (`[^|]+`) \| .{10,} \|$", section, re.MULTILINE)
    named = [name for cell in reasons for name in re.findall(r"`([\w-]+)`", cell)]
    assert sorted(named) == sorted(re.split(r"[<>=!~;]", line)[0] for line in project["dependencies"])


# Code


class Fence(NamedTuple):
    page: Path
    line: int
    options: str
    code: str
    output: str | None
    """What a ```text fence right behind it shows."""


def fences(page: Path) -> list[Fence]:
    """The Python in a page; what is marked ```python notest needs files or time that a test does not have."""
    pattern = r"^```python ?(.*)\n([\s\S]*?)^```\n(?:\s*^```text\n([\s\S]*?)^```)?"
    content = text_of(page)
    return [
        Fence(page, content[: match.start()].count("\n") + 1, match[1], match[2], match[3])
        for match in re.finditer(pattern, content, re.MULTILINE)
    ]


FENCES = [fence for page in PAGES for fence in fences(page)]


def compiled(fence: Fence, code: str | ast.Module) -> object:
    return compile(code, f"{fence.page.name}:{fence.line}", "exec")


@pytest.mark.parametrize("fence", FENCES, ids=lambda fence: f"{fence.page.stem}:{fence.line}")
def test_code_compiles_and_what_it_imports_exists(fence: Fence) -> None:
    compiled(fence, fence.code)
    tree = ast.parse(fence.code)
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compiled(fence, ast.Module(found, [])), {})


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages speak of: an image, a slide, annotations, and results in ``OUT``."""
    folder = tmp_path_factory.mktemp("workplace")
    Image.fromarray(crop()).save(folder / "region.png")
    svs(folder / "slide", crop(), 0.5, 0.5)
    small = np.full((1240, 1260, 3), 255, np.uint8)  # the sample slide, with tissue only where the README looks
    small[900:1200, 950:1250] = crop()
    svs(folder / "CMU-1-Small-Region", small, 0.5, 0.5)
    (folder / "annotations.geojson").write_text(
        json.dumps({"type": "Feature", "properties": {"name": "Tumor"}, "geometry": ANNOTATION})
    )
    model = default_model()
    celldetr.predict_slide(folder / "slide.svs", folder / "OUT", model=model, formats=["spatialdata"])
    for name in ("CASE-7", "SLIDE"):
        cells = random_cells(1200, seed=len(name))
        write_run(folder / "cohort" / "OUT" / name, cells, random_embeddings(cells))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if fences(page)], ids=lambda page: page.stem)
def test_code_runs_and_prints_what_is_shown(
    page: Path, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(shutil.copytree(workplace, tmp_path / "work"))
    monkeypatch.chdir(place / "cohort" if "CASE-7" in text_of(page) else place)
    if "predict_slide" in text_of(page):
        shutil.rmtree("OUT")
    if page.name == "README.md":  # where it is read whole
        monkeypatch.setattr(celldetr, "sample_slide", lambda: workplace / "CMU-1-Small-Region.svs")
    for fence in fences(page):
        if "notest" not in fence.options:
            printed = StringIO()
            with redirect_stdout(printed):
                exec(compiled(fence, fence.code), {})
            assert fence.output in (None, printed.getvalue())


WITH_EXAMPLES = [path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in text_of(path)]


def _example(path: Path) -> object:
    """A module whose examples predict, and so take seconds, is marked."""
    marks = pytest.mark.slow if "load_model(" in text_of(path) or "predict_slide(" in text_of(path) else ()
    return pytest.param(path, marks=marks, id=".".join(path.relative_to(SOURCE).with_suffix("").parts))


@pytest.mark.parametrize("path", [_example(path) for path in WITH_EXAMPLES])
def test_examples_in_docstrings(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(".".join(path.relative_to(SOURCE).with_suffix("").parts))
    found = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert found
    for number, test in enumerate(found):  # each in a folder of its own, as its reader runs it
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert runner.run(test).failed == 0, test.name


def test_every_public_name_has_an_example() -> None:
    without = [name for name in celldetr.__all__ if ">>> " not in (getattr(celldetr, name).__doc__ or "")]
    assert without == []
    methods = [
        name for name in vars(celldetr.Model) if not name.startswith("_") and callable(getattr(celldetr.Model, name))
    ]
    assert [name for name in methods if ">>> " not in (getattr(celldetr.Model, name).__doc__ or "")] == []


# Tables of what there is


def test_every_extra_is_listed() -> None:
    extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    section = text_of(ROOT / "docs" / "start.md").split("\n## Install\n")[1].split("\n## ")[0]
    table = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|"))
    assert set(re.findall(r"`([\w-]+)`", table)) == set(extras)


def test_data_sets_are_listed_with_their_licences() -> None:
    row = r"^\| `([\w-]+)` \| `(\w+)` \| .* \| ([\w. -]+) \| (yes|no)(?:, with credit)? \|$"
    rows = re.findall(row, text_of(ROOT / "docs" / "how-to" / "data.md"), re.MULTILINE)
    cards = [load_card(name) for name in yaml_names(CARDS)]
    assert sorted(rows) == [(c.name, c.format, c.licence, "yes" if c.may_ship else "no") for c in cards]


def test_the_card_of_a_data_set_that_is_shown_is_valid_and_whole() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", text_of(ROOT / "docs" / "how-to" / "data.md"), re.DOTALL)
    parse(DatasetCard, yaml.safe_load(block), "docs/how-to/data.md")
    assert set(yaml.safe_load(block)) == set(DatasetCard.model_fields)


def test_protocols_and_keys_of_metrics_are_described(tmp_path: Path) -> None:
    text = text_of(ROOT / "docs" / "concepts" / "evaluation.md")
    assert set(re.findall(r"^\| `([\w-]+)` \|", text.split("\n## Protocols\n")[1], re.MULTILINE)) == {*PROTOCOLS}
    report = score_images([replace(random_image(3), tissue="Colon")], TYPES, threshold=0.3, resamples=0)
    write_metrics(report, tmp_path / "m.json", others=[report], context={"dataset": "tiny"})
    content = json.loads((tmp_path / "m.json").read_text())
    keys = {*content, *content["types"]["neoplastic"], *content["tissues"]["Colon"], *content["images"][0]}
    keys |= {*content["curve"], *content["calibration"]["types"], *content["intervals_95"], *content["confusion"]}
    table = text.split("\n## metrics.json\n")[1].split("\n## ")[0]
    # "`a`, `b.c.NAME`" names a, b and c.
    assert keys <= {part for quoted in re.findall(r"`([^`]+)`", table) for part in quoted.split(".")}
