"""Cells marked by a line around them, and two browsers that teach one run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.view_browser import ARGUMENTS, CHROMIUM, WAIT, needs_chromium, serving
from helpers.view_runs import MPP, SIZE, ViewRun, write_view_run

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture
def made(tmp_path: Path) -> ViewRun:
    return write_view_run(tmp_path)


@pytest.fixture
def pages(made: ViewRun) -> Iterator[list[Any]]:
    """One run in two browsers."""
    api = pytest.importorskip("playwright.sync_api")
    with serving(made) as (address, _), api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        pages = []
        for _ in range(2):
            page = browser.new_context(viewport={"width": 1366, "height": 768}).new_page()
            page.set_default_timeout(WAIT)
            page.goto(address)
            page.wait_for_selector("body[data-slide='0'] #mode:not(:empty)")
            pages.append(page)
        yield pages
        browser.close()


def draw(page: Any, corners: list[tuple[float, float]]) -> None:
    """Draw a line through points of the window."""
    page.keyboard.press("l")
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in [*corners[1:], corners[0]]:
        page.mouse.move(*corner, steps=6)
    page.mouse.up()


def on_map(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a place of the slide, in um, is in the window while the slide is shown whole."""
    box = page.locator("#map").bounding_box()
    width, height = SIZE[0] * MPP, SIZE[1] * MPP
    scale = min((box["width"] - 48) / width, (box["height"] - 48) / height)
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    return middle[0] + (x - width / 2) * scale, middle[1] + (y - height / 2) * scale


def labels(page: Any) -> list[str]:
    found: list[str] = page.locator("#types td:nth-child(4)").all_inner_texts()
    return found


def test_a_lasso_labels_and_another_browser_loses_nothing(pages: list[Any], made: ViewRun) -> None:
    first, second = pages
    at = made.cells["one"][["x_px", "y_px"]].to_numpy() * MPP
    limit = SIZE[0] * MPP / 2
    left = int((at[:, 0] < limit).sum())
    unsure = int((np.abs(at[:, 0] - limit) < 3).sum())  # a pixel of the window is some um
    draw(first, [on_map(first, -5, -5), on_map(first, limit, -5), on_map(first, limit, 999), on_map(first, -5, 999)])
    first.wait_for_selector("body[data-marked]")
    marked = int(first.locator("body").get_attribute("data-marked"))
    assert abs(marked - left) <= unsure
    first.keyboard.press("t")
    first.fill("#new-name", "Left")
    first.press("#new-name", "Enter")
    first.locator(".type-name[value='Left']").wait_for()
    first.evaluate("document.activeElement.blur()")
    first.keyboard.press("1")
    first.wait_for_function(
        "wanted => document.querySelector('#types td:nth-child(4)').innerText === wanted", arg=str(marked)
    )

    # The other browser has seen none of it. What it says is added, and nothing of the first is lost.
    second.keyboard.press("t")
    second.fill("#new-name", "Right")
    second.press("#new-name", "Enter")
    second.locator(".type-name[value='Right']").wait_for()
    second.evaluate("document.activeElement.blur()")
    second.wait_for_function("() => document.querySelectorAll('#types td:nth-child(4)').length === 2")
    assert labels(second) == [str(marked), "0"]
