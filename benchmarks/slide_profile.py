"""Where the time of a slide goes, from file to table, and the floor that arithmetic and memory set.

python benchmarks/slide_profile.py [SLIDE] [--threads 1] | tee benchmarks/results/slide_profile.txt

Seconds of the engine's own stages, each clocked in the thread that does it, after a run that warms caches up. The floor
of a stage is its multiplications at the rate of this machine's best matrix product, measured in the same run with the
same number of threads; what must be moved, at the rate of a plain copy, is given for the whole.
"""

from __future__ import annotations

import argparse
import copy
import functools
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from celldetr.api import load_model
from celldetr.demo_slide import sample_slide
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.slide import engine, plan, table_writer
from celldetr.slide.band_cache import BandCache
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.engine import run_slide
from celldetr.slide.options import PredictOptions
from celldetr.slide.reader import open_slide
from celldetr.slide.seams import Ownership


class Clock:
    """Wall and CPU seconds by stage; what a stage calls that has a name of its own is taken off it."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.tiles = 0.0
        self._stack = threading.local()
        self._lock = threading.Lock()

    def wrap(self, owner: Any, attribute: str, stage: str) -> Callable[[], None]:
        """Clock a function or method; returns what undoes it."""
        inner = getattr(owner, attribute)

        @functools.wraps(inner)
        def clocked(*args: Any, **kwargs: Any) -> Any:
            stack = self._stack.__dict__.setdefault("names", [])
            start = time.perf_counter()
            stack.append([stage, 0.0])
            try:
                return inner(*args, **kwargs)
            finally:
                spent = time.perf_counter() - start
                _, children = stack.pop()
                if stack:
                    stack[-1][1] += spent
                with self._lock:
                    self.wall[stage] += spent - children

        setattr(owner, attribute, clocked)
        return lambda: setattr(owner, attribute, inner)


@contextmanager
def clocks(model: Any, clock: Clock) -> Iterator[None]:
    """Clock every stage of the engine."""
    network = model.network
    places = [
        (SlideReader, "read_region", "decode and resample (reading threads)"),
        (plan, "find_tissue", "tissue mask"),
        (model, "predict_tiles", "tiles in, cells out (copies, threshold, repetitions)"),
        (network, "memorise", "projections"),
        (network.backbone, "forward", "backbone"),
        (network.encoder, "forward", "encoder"),
        (network, "detect", "detection decoder"),
        (network, "represent", "representation decoder"),
        (Ownership, "keep", "merge (ownership)"),
        (table_writer, "cell_rows", "rows"),
        (BandCache, "write", "write bands"),
        (BandCache, "read", "read bands"),
        (engine, "write_table", "write table"),
    ]
    undo = [clock.wrap(*place) for place in places]
    try:
        yield
    finally:
        for back in undo:
            back()


def rates(threads: int) -> tuple[float, float]:
    """Best multiplications (bfloat16 if that is faster) and bytes a second of this machine."""
    best = 0.0
    for dtype in (torch.bfloat16, torch.float32):
        a, b = torch.randn(4096, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
        a @ b
        for _ in range(5):
            start = time.perf_counter()
            a @ b
            best = max(best, a.numel() * b.shape[1] / (time.perf_counter() - start))
    source = torch.zeros(64 * 2**20, dtype=torch.uint8)
    target = source.clone()
    seconds = min(_seconds(lambda: target.copy_(source)) for _ in range(5))
    return best, 2 * source.numel() / seconds


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def multiplications(size: int) -> dict[str, float]:
    """By stage, per square of 256 px, of a tile of ``size``; deformable sampling is counted by hand."""
    network = copy.deepcopy(load_checkpoint(find_model("small-20x")).network).eval()
    network.detector.near = True
    config, pixels = network.config, torch.zeros(1, 3, size, size, dtype=torch.uint8)
    area = (size / 256) ** 2
    counts: dict[str, float] = {}

    def count(work: Callable[[], Any]) -> tuple[float, Any]:
        with FlopCounterMode(display=False) as counter:
            result = work()
        return counter.get_total_flops() / 2 / area, result

    with torch.inference_mode():
        normal = network.normalise(pixels)
        counts["backbone"], _ = count(lambda: network.backbone(normal))
        everything, memories = count(lambda: network.memorise(pixels))
        detect, found = count(lambda: network.detect(memories))
        boxes = found.last.boxes[:, : round(70 * area)]
        represent, _ = count(lambda: network.represent(memories, boxes))
    sample = 4 * config.d_model * config.points  # four corners of every channel, for each level and layer
    tokens, levels = memories.detection.tokens.shape[1] / area, len(config.encoder_strides)
    encoder = tokens * levels * config.encoder_layers * sample
    counts["encoder"] = everything - counts["backbone"] + encoder
    counts["detection decoder"] = detect + config.num_queries * levels * config.detection_layers * sample
    representation = 70 * len(config.representation_strides) * config.representation_layers * sample
    counts["representation decoder"] = represent + representation
    return counts


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", nargs="?", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = PredictOptions()
    model, clock = load_model(None, "cpu"), Clock()
    path = arguments.slide or sample_slide()
    per_second, bytes_per_second = rates(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), {len(os.sched_getaffinity(0))} processors")
    print(f"best matrix product {per_second / 1e9:.0f} G multiplications/s, copy {bytes_per_second / 1e9:.1f} GB/s")
    with tempfile.TemporaryDirectory() as folder, open_slide(path) as slide:
        with run_slide(slide, model, folder, options):
            pass  # warms caches up
        pixels: list[int] = []
        inner = model.predict_tiles

        def counted(tiles: Any, *options: Any) -> Any:
            pixels.append(sum(tile.shape[0] * tile.shape[1] for tile in tiles))
            return inner(tiles, *options)

        model.predict_tiles = counted  # type: ignore[method-assign]
        with clocks(model, clock):
            start, cpu = time.perf_counter(), time.process_time()
            with run_slide(slide, model, folder, options, overwrite=True) as summary:
                pass
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        table_bytes = (summary.directory / "cells.parquet").stat().st_size
    squares = sum(pixels) / 256**2
    print(
        f"{path.name}: {path.stat().st_size / 1e6:.1f} MB in, {table_bytes / 1e6:.2f} MB out, {summary.cells} cells,"
        f" {summary.tissue_mm2:.2f} mm2 of tissue, {squares:.0f} squares of 256 x 256 px through the network"
    )
    print(f"wall {wall:.2f} s, CPU {cpu:.2f} s, {summary.tissue_mm2 / wall * 3600:.0f} mm2 of tissue an hour")
    floors = {name: n * squares / per_second for name, n in multiplications(options.tile_for(model.image_px)).items()}
    print(f"{'stage':55} {'wall s':>7} {'share':>6} {'floor s':>8} {'times the floor':>16}")
    for stage, seconds in sorted(clock.wall.items(), key=lambda item: -item[1]):
        floor = floors.get(stage)
        gap = f"{floor:8.3f} {seconds / floor:16.1f}" if floor else ""
        print(f"{stage:55} {seconds:7.3f} {seconds / wall:6.1%} {gap}")
    known = sum(floors.values())
    print(f"{'network, all stages':55} {'':7} {'':6} {known:8.3f} {wall / known:16.1f}  (of the whole wall time)")
    read = sum(pixels) * 3 + path.stat().st_size + table_bytes
    print(f"bytes that must move (pixels, file, table): {read / 1e6:.0f} MB, {read / bytes_per_second * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
