"""``celldetr view`` as its user sees it: the real server and page, in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.view_browser import ARGUMENTS, CHROMIUM, WAIT, legend, needs_chromium, serving
from helpers.view_runs import MPP, ViewRun, write_view_run

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ViewRun:
    return write_view_run(tmp_path_factory.mktemp("view"))


@pytest.fixture(scope="module")
def address(made: ViewRun) -> Iterator[str]:
    with serving(made) as (address, _):
        yield address


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """The page, loaded; what its scripts complain of fails the test."""
    api = pytest.importorskip("playwright.sync_api")
    complaints: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(WAIT)
        page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.wait_for_selector("body[data-slide='0'] #mode:not(:empty)")  # drawn for the first time
        yield page
        browser.close()
    assert not complaints


def pixels(page: Any, path: Path) -> np.ndarray:
    from PIL import Image

    page.wait_for_timeout(1500)  # tiles and outlines come one by one, and fade in
    page.screenshot(path=path)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


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
