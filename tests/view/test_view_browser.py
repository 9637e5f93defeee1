"""``celldetr view`` as its user sees it: the real server and page, in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from helpers.view_browser import appears, draw_around, launched, legend, needs_chromium, opened, serving
from helpers.view_runs import MPP, SIZE, ViewRun, write_view_run

pytestmark = [pytest.mark.slow, needs_chromium]
NAMES = {"lymphocyte": "Immune", "epithelial": "Tumour", "stromal": "Stroma"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ViewRun:
    """A run that tests look at."""
    return write_view_run(tmp_path_factory.mktemp("view"))


@pytest.fixture(scope="module")
def address(made: ViewRun) -> Iterator[str]:
    with serving(made) as (address, _):
        yield address


@pytest.fixture
def taught(tmp_path: Path) -> ViewRun:
    """A run that a test teaches."""
    return write_view_run(tmp_path)


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, loaded; what its scripts complain of fails the test."""
    complaints: list[str] = []

    def listen(page: Any) -> None:
        page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))

    page = opened(browser, address, 1280, 800, listen)
    yield page
    page.context.close()
    assert not complaints


def pixels(page: Any, path: Path) -> np.ndarray:
    """The page once it has come to rest: tiles and outlines come one by one, and fade in."""
    from PIL import Image

    before = b""
    for _ in range(40):
        page.wait_for_timeout(400)
        page.screenshot(path=path)
        if path.read_bytes() == before:
            return np.asarray(Image.open(path).convert("RGB")).astype(int)
        before = path.read_bytes()
    pytest.fail("the page does not come to rest")


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Number of pixels of a colour."""
    return int((np.abs(picture - colour).max(-1) < 12).sum())


def middle(page: Any) -> tuple[float, float]:
    box = page.locator("#map").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_slide_and_cells_are_drawn_and_coloured(page: Any, made: ViewRun, tmp_path: Path) -> None:
    assert legend(page) == made.cells["one"]["type"].value_counts().to_dict()
    green = (0x00, 0xA5, 0x50)  # of stromal cells
    shown = pixels(page, tmp_path / "shown.png")[:, 300:]
    assert has(shown, (238, 205, 222)) > 100_000  # tissue
    assert has(shown, green) > 300
    page.keyboard.press("3")  # the third type: off
    page.locator("#shown", has_text=" of ").wait_for()
    assert has(pixels(page, tmp_path / "without.png")[:, 300:], green) == 0
    page.keyboard.press("3")
    page.keyboard.press("c")  # all cells: off
    hidden = pixels(page, tmp_path / "hidden.png")[:, 300:]
    assert has(hidden, green) == 0
    assert has(hidden, (96, 60, 130)) > 1000  # the nuclei themselves


def test_filters_and_a_scale(page: Any, made: ViewRun) -> None:
    frame = made.cells["one"]
    page.select_option("#add-filter", "score")
    low = page.get_by_label("Detection score, at least")
    low.fill("100")  # the middle of 200 steps
    limit = (frame["score"].min() + frame["score"].max()) / 2
    count = int((frame["score"] >= limit).sum())
    page.locator("p#shown").and_(page.get_by_text(f"{count} of 300 cells", exact=True)).wait_for()
    page.select_option("#colour", "area_um2")
    page.wait_for_selector(".ramp")
    page.locator(".filter .close").click()
    page.locator("p#shown").and_(page.get_by_text("300 cells", exact=True)).wait_for()


def test_a_click_shows_a_cell_and_kin_lead_to_others(page: Any, made: ViewRun, tmp_path: Path) -> None:
    frame = made.cells["one"]
    width, height = 1500 * MPP, 1100 * MPP
    at = frame[["x_px", "y_px"]].to_numpy() * MPP
    row = int(np.argmin(np.hypot(at[:, 0] - width / 2, at[:, 1] - height / 2)))
    x, y = middle(page)
    box = page.locator("#map").bounding_box()
    scale = min((box["width"] - 48) / width, (box["height"] - 48) / height)  # px per um: the slide fits, with a margin
    page.mouse.click(x + (at[row, 0] - width / 2) * scale, y + (at[row, 1] - height / 2) * scale)
    page.wait_for_selector(f"body[data-cell='one:{row}']")
    assert page.locator("#cell h2").inner_text() == frame.loc[row, "type"]
    page.get_by_role("button", name="Other slides").click()
    page.wait_for_selector(".kin .where")
    kin = page.locator(".kin button")
    assert kin.count() == 24
    sizes = "(images) => Promise.all(images.map((one) => one.decode().then(() => one.naturalWidth)))"
    assert page.locator(".kin img").evaluate_all(sizes) == [144] * 24
    unit = {name: e / np.linalg.norm(e.astype(float), axis=1, keepdims=True) for name, e in made.embeddings.items()}
    best = int(np.argmax(unit["two"] @ unit["one"][row]))
    kin.first.click()
    page.wait_for_selector(f"body[data-cell='two:{best}'][data-slide='1']")
    assert page.locator(".slide.current .name").inner_text() == "two"
    page.locator("#mode", has_text="outlines").wait_for()
    picture = pixels(page, tmp_path / "kin.png")
    x, y = middle(page)
    nucleus = picture[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3]
    assert np.abs(nucleus.mean((0, 1)) - (96, 60, 130)).max() < 25  # the cell is in the middle of the map
    page.keyboard.press("b")
    page.wait_for_selector(f"body[data-cell='one:{row}'][data-slide='0']")
    page.keyboard.press("Escape")
    page.wait_for_selector("body:not([data-cell])")


def test_the_scale_bar_is_right(page: Any) -> None:
    size = page.locator("#map").bounding_box()
    length, unit = page.locator("#scale-text").inner_text().split()
    assert unit == "µm"
    resolution = max(1500 * MPP / (size["width"] - 48), 1100 * MPP / (size["height"] - 48))  # um per px, fitted
    assert page.locator("#scale-bar").bounding_box()["width"] == pytest.approx(float(length) / resolution, rel=0.02)


# Types are taught


def click_cell(page: Any, made: ViewRun, row: int) -> None:
    """Click a cell of the first slide, which is shown whole."""
    width, height = SIZE[0] * MPP, SIZE[1] * MPP
    x, y = made.cells["one"].loc[row, ["x_px", "y_px"]].to_numpy(float) * MPP
    for _ in range(20):
        page.keyboard.press("0")
        page.wait_for_timeout(1000)  # it is zoomed to slowly, and the slower the busier the machine is
        box = page.locator("#map").bounding_box()
        scale = min((box["width"] - 48) / width, (box["height"] - 48) / height)
        page.mouse.click(
            box["x"] + box["width"] / 2 + (x - width / 2) * scale,
            box["y"] + box["height"] / 2 + (y - height / 2) * scale,
        )
        if appears(page, f"body[data-cell='one:{row}']", 2000):
            return
    pytest.fail(f"cell {row} cannot be clicked; the page shows {page.locator('body').get_attribute('data-cell')}")


def wait_learned(page: Any, revision: int) -> None:
    page.wait_for_function("wanted => Number(document.body.dataset.learned) >= wanted", arg=revision)


def alone(frame: Any) -> list[int]:
    """Cells that a click cannot take for another, one of each type first."""
    at = frame[["x_px", "y_px"]].to_numpy()
    distance = np.linalg.norm(at[:, None] - at, axis=2)
    np.fill_diagonal(distance, np.inf)
    inside = ((at > 150) & (at < np.array(SIZE) - 150)).all(1)
    rows = np.flatnonzero((distance.min(1) > 40) & inside)
    return [int(rows[np.flatnonzero(frame["type"].to_numpy()[rows] == name)[0]]) for name in NAMES]


def inside(points: np.ndarray, corners: np.ndarray, margin: float) -> tuple[set[int], set[int]]:
    """Points that lie in a polygon, by more than ``margin``, and those that do not lie outside by more than that."""
    polygon, at = shapely.Polygon(corners), shapely.points(points)
    certain, possible = (shapely.contains(polygon.buffer(by), at) for by in (-margin, margin))
    return set(np.flatnonzero(certain).tolist()), set(np.flatnonzero(possible).tolist())


def labelled(page: Any, key: str, number: int) -> set[int]:
    """Rows of the first slide that get a type by its key."""
    with page.expect_response(lambda answer: answer.url.endswith("/teach") and answer.request.method == "POST"):
        page.keyboard.press(key)
    marks = page.evaluate("() => fetch('slides/0/marks').then((answer) => answer.json())")
    return {row for row, kind in zip(marks["rows"], marks["types"], strict=True) if kind == number}


def test_a_lasso_on_the_slide_and_on_the_map_marks_the_cells_in_it(browser: Any, taught: ViewRun) -> None:
    """What is marked is what gets a label, so labels tell which cells these were."""
    with serving(taught) as (address, _):
        page = opened(browser, address, 1280, 800)
        define = "said => fetch('teach', { method: 'POST', body: JSON.stringify(said) }).then((answer) => answer.ok)"
        for base, (name, colour) in enumerate((("one", "#ff0000"), ("two", "#0000ff"))):
            said = {"action": "define", "name": name, "colour": colour, "key": str(base + 1), "base": base}
            assert page.evaluate(define, said | {"client": "test"})
        page.wait_for_selector(".type-name[value='two']", state="attached")  # it asks every few seconds

        # on the slide, with Shift: an L
        box = page.locator("#map").bounding_box()
        width, height = np.array(SIZE) * MPP
        scale = min((box["width"] - 48) / width, (box["height"] - 48) / height)  # px per um: it fits, with a margin
        middle = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
        shape = np.array([(0.2, 0.2), (0.8, 0.2), (0.8, 0.4), (0.45, 0.4), (0.45, 0.85), (0.2, 0.85)])
        corners = np.round(middle + (shape - 0.5) * [width, height] * scale)
        page.keyboard.down("Shift")
        draw_around(page, corners.tolist())
        page.keyboard.up("Shift")
        page.wait_for_selector("body[data-marked]")
        count = int(page.locator("body").get_attribute("data-marked"))
        at = middle + (taught.cells["one"][["x_px", "y_px"]].to_numpy() * MPP - [width / 2, height / 2]) * scale
        certain, possible = inside(at, corners, 1.5)
        found = labelled(page, "1", 0)
        assert certain <= found <= possible
        assert count == len(found) > 40

        # on the embedding map, after L
        page.keyboard.press("m")
        page.wait_for_selector("body[data-map='0']")
        box = page.locator("#embedding").bounding_box()
        side = page.evaluate("() => document.getElementById('embedding').clientWidth")
        middle = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
        both = pq.read_table(taught.out / "embedding_map.parquet").to_pandas().to_numpy()[: len(at)]
        at = middle + both / (2.1 / side)
        shape = np.array([(0.05, 0.05), (0.95, 0.05), (0.95, 0.3), (0.5, 0.55), (0.05, 0.95)])
        corners = np.round(middle + (shape - 0.5) * (side - 4))
        page.keyboard.press("l")
        page.wait_for_selector("body.lassoing")
        draw_around(page, corners.tolist())
        page.wait_for_selector("body[data-marked]:not(.lassoing)")
        certain, possible = inside(at, corners, 1.5)
        found = labelled(page, "2", 1)
        assert certain <= found <= possible
        assert 40 < len(found) < len(at)
        page.context.close()


def test_from_opening_to_a_saved_head(browser: Any, taught: ViewRun) -> None:
    """Look, name what is seen, lose the server, go on, save the head."""
    made, frame = taught, taught.cells["one"]
    with serving(made) as (address, server):
        page = opened(browser, address)
        page.click("#open-teach")
        for name in NAMES.values():
            page.fill("#new-name", name)
            page.press("#new-name", "Enter")
            page.locator(f".type-name[value='{name}']").wait_for()
        page.evaluate("document.activeElement.blur()")
        for number, row in enumerate(alone(frame), start=1):  # with all its kin but four, of this slide
            click_cell(page, made, row)
            with page.expect_response(lambda answer: "/kin" in answer.url):
                page.get_by_role("button", name="This slide").click()
            page.wait_for_timeout(1000)  # otherwise the kin of all slides are ticked, and then replaced
            page.get_by_role("button", name="Tick all").click()
            ticks = page.locator(".kin input:checked")
            page.wait_for_function("() => document.querySelectorAll('.kin input:checked').length === 24")
            for _ in range(4):
                ticks.last.uncheck()
            page.keyboard.press(str(number))
            wait_learned(page, 3 + number)
            assert (page.input_value("#colour") == "taught") == (number > 1)  # one type alone tells nothing apart
        server.kill()
        server.wait()
        page.context.close()
    with serving(made) as (address, _):
        page = opened(browser, address)
        page.keyboard.press("t")
        page.wait_for_selector("body[data-learned='6']")
        rows = page.locator("#types tr").all()
        assert [row.locator(".type-name").input_value() for row in rows] == list(NAMES.values())
        assert [row.locator("td").nth(3).inner_text() for row in rows] == ["21", "21", "21"]
        page.wait_for_function("() => document.querySelector('#colour').value === 'taught'")
        counts = legend(page)
        true = frame["type"].map(NAMES).value_counts()
        assert all(abs(counts[name] - true[name]) < 20 for name in NAMES.values())
        page.keyboard.press("q")
        page.wait_for_selector(".asked")
        page.keyboard.press("1")
        wait_learned(page, 7)
        page.keyboard.press("Escape")
        page.keyboard.press("z")
        wait_learned(page, 8)
        assert page.locator("#types td:nth-child(4)").all_inner_texts() == ["21", "21", "21"]
        page.locator("#save").click()
        assert "celldetr retype" in page.locator("#saved code").inner_text()
        page.context.close()
    assert {path.name for path in (made.out / "teach" / "head").iterdir()} == {"head.safetensors", "head.json"}
