"""The server of ``celldetr view``, and the Chromium on the PATH that the tests drive."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
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
