"""The whole story in a browser: look, name what is seen, lose the server, go on, save the head."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.view_browser import ARGUMENTS, CHROMIUM, WAIT, legend, needs_chromium, serving
from helpers.view_runs import MPP, SIZE, ViewRun, write_view_run

pytestmark = [pytest.mark.slow, needs_chromium]
NAMES = {"lymphocyte": "Immune", "epithelial": "Tumour", "stromal": "Stroma"}


@pytest.fixture
def made(tmp_path: Path) -> ViewRun:
    return write_view_run(tmp_path)


@pytest.fixture
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def opened(browser: Any, address: str) -> Any:
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.wait_for_selector("body[data-slide='0'] #mode:not(:empty)")
    return page


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
        page.wait_for_timeout(2000)
        if page.locator(f"body[data-cell='one:{row}']").count():
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


def test_from_opening_to_a_saved_head(browser: Any, made: ViewRun) -> None:
    frame = made.cells["one"]
    with serving(made) as (address, server):
        page = opened(browser, address)
        page.keyboard.press("t")
        for name in NAMES.values():
            page.fill("#new-name", name)
            page.press("#new-name", "Enter")
            page.locator(f".type-name[value='{name}']").wait_for()
        page.evaluate("document.activeElement.blur()")
        for number, row in enumerate(alone(frame), start=1):  # with all its kin but four, of this slide
            click_cell(page, made, row)
            page.get_by_role("button", name="This slide").click()
            page.get_by_role("button", name="Tick all").click()
            ticks = page.locator(".kin input:checked")
            page.wait_for_function("() => document.querySelectorAll('.kin input:checked').length === 24")
            for _ in range(4):
                ticks.last.uncheck()
            page.keyboard.press(str(number))
            wait_learned(page, 3 + number)
        server.kill()
        server.wait()
        page.close()
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
        page.close()
    assert {path.name for path in (made.out / "teach" / "head").iterdir()} == {"head.safetensors", "head.json"}
