"""The server of ``celldetr view``, and the Chromium on the PATH that the tests drive."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from helpers.view_runs import ViewRun

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium")
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
WAIT = 60_000  # ms; machines that test are busy


@contextmanager
def launched() -> Iterator[Any]:
    """A Chromium; it takes seconds to start, so that tests share one."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def opened(
    browser: Any, address: str, width: int = 1366, height: int = 768, listen: Callable[[Any], None] = lambda page: None
) -> Any:
    """The page in a window of its own, drawn for the first time; ``listen`` is given it before it loads."""
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.set_default_timeout(WAIT)
    listen(page)
    page.goto(address)
    page.wait_for_selector("body[data-slide='0'] #mode:not(:empty)")
    return page


def appears(page: Any, selector: str, ms: int) -> bool:
    """Whether there is an element within some milliseconds."""
    api = pytest.importorskip("playwright.sync_api")
    try:
        page.wait_for_selector(selector, timeout=ms)
    except api.TimeoutError:
        return False
    return True


def draw_around(page: Any, corners: Sequence[tuple[float, float]]) -> None:
    """Drag the mouse along corners, px of the page, and back to the first.

    A busy browser hands a page one move a frame, the last: it is waited for each corner until the page has it.
    """
    page.evaluate("() => window.addEventListener('pointermove', (e) => (window.at = [e.clientX, e.clientY]), true)")
    for number, (x, y) in enumerate([*corners, corners[0]]):
        page.mouse.move(x, y)
        page.wait_for_function("([x, y]) => window.at && window.at[0] === x && window.at[1] === y", arg=[x, y])
        if number == 0:
            page.mouse.down()
    page.mouse.up()


@contextmanager
def serving(made: ViewRun) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server: its address, and its process, which may have been killed at the end."""
    command = [sys.executable, "-m", "celldetr", "view", made.out, "--slides", made.slides]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[1], server
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(30) in (0, -signal.SIGKILL)


def legend(page: Any) -> dict[str, int]:
    entries = page.locator("#legend .entry").all()
    return {one.locator(".name").inner_text(): int(one.locator(".count").inner_text()) for one in entries}
