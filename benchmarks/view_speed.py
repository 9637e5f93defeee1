"""How fast ``celldetr view`` is with two slides of a million cells each, in a headless Chromium.

    python benchmarks/view_speed.py -o runs/view_speed > benchmarks/results/view_speed.txt

The slides are those of ``big_slide.py``; their cells are synthetic, ``CLUSTERS`` clouds of embeddings of a few types,
in the row order of real tables. They are written once and used again. Chromium draws without a graphics card
(SwiftShader), so frames are those of a slow laptop. Needs Playwright and a Chromium on the PATH.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from playwright.sync_api import Page, sync_playwright

from big_slide import MPP, pattern, write
from celldetr.cells.rows import cell_rows
from celldetr.io.files import write_json
from celldetr.model.output import TileCells
from celldetr.slide.row_order import MOST, along_curve, halves

TYPES = ("lymphocyte", "epithelial", "stromal", "plasma cell")
DIM, CLUSTERS = 128, 12
SIDE = 30_000  # px of the slides
RADII = 32
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def make(folder: Path, cells: int, side: int, slides: int) -> None:
    """Slides and finished runs of so many cells each."""
    image = folder / "slides" / "slide0.tif"
    write(image, side, 256, pattern()[1])
    for number in range(slides):
        if number:
            image.with_name(f"slide{number}.tif").hardlink_to(image)
        write_cells(folder / "out" / f"slide{number}", cells, side, number)


def write_cells(out: Path, count: int, side: int, seed: int) -> None:
    """The table of a slide."""
    out.mkdir(parents=True)
    fixed, rng = np.random.default_rng(7), np.random.default_rng(seed)
    middles = fixed.normal(size=(CLUSTERS, DIM)).astype(np.float32)
    points = rng.uniform(20, side - 20, (count, 2))
    # Clusters have their places in the tissue, and some cells everywhere.
    field = np.floor(points / side * 6).astype(int)
    cluster = np.where(
        rng.random(count) < 0.6, (field[:, 0] * 5 + field[:, 1] * 3) % CLUSTERS, rng.integers(0, CLUSTERS, count)
    )
    table = out / "cells.parquet"
    writer, first = None, 0
    for part in halves(points, MOST):
        index = part[along_curve(points[part])]
        n, kind = len(index), cluster[index]
        radius = rng.uniform(5, 9, (n, 1)).astype(np.float32)
        probabilities = rng.dirichlet(np.full(len(TYPES), 0.2), n) + 2 * np.eye(len(TYPES))[kind % len(TYPES)]
        cells = TileCells(
            boxes=np.concatenate([points[index] - radius, points[index] + radius], 1),
            scores=rng.beta(6, 2, n).astype(np.float32),
            probabilities=(probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32),
            embeddings=(middles[kind] + 0.6 * rng.normal(size=(n, DIM))).astype(np.float16),
            radii=np.repeat(radius, RADII, 1) * rng.uniform(0.9, 1.1, (n, RADII)).astype(np.float32),
        )
        rows = cell_rows(cells, TYPES, (MPP, MPP), first)
        plain = [name for name in rows.schema.names if name not in ("embedding", "geometry")]
        options = {"compression": "zstd", "use_dictionary": ["type"], "write_statistics": plain}  # of real tables
        writer = writer or pq.ParquetWriter(table, rows.schema, **options)
        writer.write_table(rows)
        first += n
    assert writer is not None
    writer.close()
    run = {
        "status": "complete",
        "slide": f"{out.name}.tif",
        "mpp": MPP,
        "width": side,
        "height": side,
        "types": list(TYPES),
    }
    write_json(out / "run.json", run)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int]]:
    """Address and process of a server."""
    command = [sys.executable, "-m", "celldetr", "view", folder / "out", "--slides", folder / "slides"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[1], server.pid
        server.terminate()


def memory(pid: int, what: str) -> float:
    """Of a process, GB: VmRSS (now) or VmHWM (the most so far)."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024 / 1e9


def seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


FRAMES = """async () => {  // time between frames while the slide is dragged, ms
  const times = []; let last = performance.now(), on = true;
  const tick = (now) => { times.push(now - last); last = now; if (on) requestAnimationFrame(tick); };
  requestAnimationFrame(tick);
  window.stopFrames = () => { on = false; return times.slice(2); };
}"""


def pan(page: Page) -> list[float]:
    """Frame times of a drag of two seconds, ms."""
    box = page.locator("#map").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.6
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(FRAMES)
    for step in range(60):
        page.mouse.move(x - 6 * step, y - 2 * step)
        page.wait_for_timeout(16)
    times: list[float] = page.evaluate("() => window.stopFrames()")
    page.mouse.up()
    return times


def measure(page: Page, address: str) -> Iterator[str]:
    """Lines of the report."""

    def first() -> None:
        page.goto(address)
        page.wait_for_selector("body[data-slide='0'] #mode:not(:empty)")

    def ask(path: str) -> None:
        page.evaluate("path => fetch(path).then((answer) => answer.arrayBuffer())", path)

    def say(**said: Any) -> None:
        page.evaluate("said => fetch('teach', { method: 'POST', body: JSON.stringify(said) })", {"client": "a", **said})

    def plain() -> None:
        page.goto(f"{address}licences.txt")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    yield f"a page of text in a new browser  {seconds(plain):6.2f} s"
    yield f"first paint of slide and cells   {seconds(first):6.2f} s"
    yield f"  again, the server being warm   {seconds(first):6.2f} s"
    frames = pan(page)
    yield f"frame while the slide is dragged {np.median(frames):6.0f} ms, 95 % under {np.quantile(frames, 0.95):.0f} ms"
    yield f"kin, embeddings being read       {seconds(partial(ask, 'slides/0/cells/7/kin/all')):6.2f} s"
    for scope, what in (("here", "one slide"), ("all", "all slides")):
        times = [seconds(partial(ask, f"slides/0/cells/{row}/kin/{scope}")) for row in range(10, 20)]
        yield f"kin on {what:12s}              {1000 * np.median(times):6.0f} ms"
    for number, kind in enumerate(TYPES[:3]):
        say(action="define", name=kind, colour=f"#{number}0a0f0", base=number)
    types = page.evaluate(
        "() => fetch('slides/0/column?name=type').then((answer) => answer.arrayBuffer())"
        ".then((codes) => [...new Uint16Array(codes, 0, 400)])"
    )
    for number in range(3):
        rows = [[0, row] for row, kind in enumerate(types) if kind == number][:30]
        say(action="label", type=number, cells=rows, base=3 + number)

    def learn() -> None:
        page.evaluate("() => fetch('teach/learn', { method: 'POST', body: '{}' }).then((answer) => answer.text())")
        ask("slides/0/typed")

    yield f"first lesson, all cells typed    {seconds(learn):6.2f} s"
    say(action="undo", base=6)
    yield f"learn again, all cells typed     {seconds(learn):6.2f} s"

    def make_map() -> None:
        while page.evaluate("() => fetch('map').then((answer) => answer.json()).then(({ done, of }) => of - done)"):
            page.wait_for_timeout(200)

    yield f"embedding map of all slides      {seconds(make_map):6.1f} s, once"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000, help="of each slide")
    parser.add_argument("--slides", type=int, default=2)
    parser.add_argument("--side", type=int, default=SIDE, help="of the slides, px")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/view_speed"))
    options = parser.parse_args()
    if not options.output.exists():
        make(options.output, options.cells, options.side, options.slides)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with serving(options.output) as (address, pid), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.set_default_timeout(120_000)
        print(
            f"{options.slides} slides of {options.cells:,} cells, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        print(f"Chromium {browser.version}, {platform.platform()}")
        shutil.rmtree(options.output / "out" / "teach", ignore_errors=True)
        for line in measure(page, address):
            print(line, flush=True)
        print(f"memory of the server, most       {memory(pid, 'VmHWM'):6.2f} GB")
        browser.close()


if __name__ == "__main__":
    main()
