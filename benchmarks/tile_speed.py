"""What a tile costs, stage by stage: CPU time on one thread, wall time on two; and a slide from file to table.

python benchmarks/tile_speed.py | tee benchmarks/results/tile_speed.txt

``first`` is the network as it was trained: float32, BatchNorm apart, locations and weights of attention in PyTorch.
``now`` is what ``TilePredictor`` runs. Both in one process: the ratio holds on a noisy machine. Times are medians per
256 x 256 px of tissue of the sample slide; wall and cpu include everything from uint8 pixels to cells.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from celldetr.demo_slide import sample_slide
from celldetr.io.files import read_json
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.model.layers import DeformableAttention
from celldetr.slide.engine import run_slide
from celldetr.slide.reader import open_slide

SIZES = ((256, 4), (512, 4))
REPEATS = 7


def tissue(count: int, size: int) -> list[NDArray[np.uint8]]:
    """Tiles of the sample slide that are mostly tissue."""
    with open_slide(sample_slide()) as slide:
        image = slide.read_region(0, 0, slide.width, slide.height, slide.width, slide.height)
    rng, tiles = np.random.default_rng(0), []
    while len(tiles) < count:
        y, x = (int(rng.integers(0, side - size)) for side in image.shape[:2])
        tile = image[y : y + size, x : x + size]
        if (tile.mean(-1) < 210).mean() > 0.6:
            tiles.append(np.ascontiguousarray(tile))
    return tiles


def clock(work: Callable[[], object]) -> tuple[float, float]:
    """Median wall and CPU milliseconds."""
    times = []
    for repeat in range(REPEATS + 2):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        if repeat >= 2:
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = np.median(times, axis=0) * 1e3
    return float(wall), float(cpu)


def measure(predictor: TilePredictor, images: list[NDArray[np.uint8]]) -> list[float]:
    """Milliseconds per 256 x 256 px: wall, CPU, then wall of the stages."""
    network, area = predictor.network, len(images) * (images[0].shape[0] / 256) ** 2
    pixels = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())
    wall, cpu = clock(lambda: predictor.predict_tiles(images))
    with torch.inference_mode(), predictor.autocast():
        normal, memories = network.normalise(pixels), network.memorise(pixels)
        boxes = network.detect(memories).last.boxes[:, : round(70 * area / len(images))]
        backbone, _ = clock(lambda: network.backbone(normal))
        memorise, _ = clock(lambda: network.memorise(pixels))
        detect, _ = clock(lambda: network.detect(memories))
        represent, _ = clock(lambda: network.represent(memories, boxes))
    return [value / area for value in (wall, cpu, backbone, memorise - backbone, detect, represent)]


def tiles(threads: int) -> None:
    """Print a table for one number of threads."""
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(find_model("small-20x"))
    first = TilePredictor(copy.deepcopy(checkpoint.network), threshold=checkpoint.card.threshold, precision="32")
    first.network = copy.deepcopy(checkpoint.network).eval()
    for module in first.network.modules():
        if isinstance(module, DeformableAttention):
            module.fused = False
    now = TilePredictor(checkpoint.network, threshold=checkpoint.card.threshold)
    print(f"{threads} thread{'s' * (threads > 1)}, milliseconds a 256 x 256 px tile")
    print("tile batch           wall     cpu  backbone  project+encode  detect  represent (wall)")
    for size, batch in SIZES:
        images = tissue(batch, size)
        rows = {name: measure(predictor, images) for name, predictor in (("first", first), ("now", now))}
        for name, (wall, cpu, *stages) in rows.items():
            shown = "  ".join(f"{stage:8.1f}" for stage in stages)
            print(f"{size:4d} {batch:5d} {name:>6} {wall:7.1f} {cpu:7.1f}  {shown}")
        ratios = [old / new for old, new in zip(rows["first"], rows["now"], strict=True)]
        print(f"             ratio {ratios[0]:6.2f}  {ratios[1]:6.2f}", flush=True)


def slide() -> None:
    """Print where the time of a slide goes, from file to table, the model loaded and warm."""
    checkpoint = load_checkpoint(find_model("small-20x"))
    model = TilePredictor(checkpoint.network, threshold=checkpoint.card.threshold)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):  # the first warms up
            start = time.perf_counter()
            with open_slide(sample_slide()) as reader, run_slide(reader, model, folder, overwrite=True) as summary:
                pass
            seconds = time.perf_counter() - start
        spent = read_json(Path(summary.directory) / "run.json") or {}
    read = spent["speed"]["mm2_per_s"] * 3600
    print(
        f"slide: {summary.cells} cells, {summary.tissue_mm2:.2f} mm2 of tissue in {seconds:.2f} s: {spent['seconds']}"
    )
    print(f"       {read:.0f} mm2 read an hour, {summary.tissue_mm2 / seconds * 3600:.0f} mm2 of tissue an hour")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="only this table")
    threads = parser.parse_args().threads
    if threads:
        tiles(threads)
        return
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}", flush=True)
    for count in (1, 2):  # a process each: the number of threads is settled once
        subprocess.run([sys.executable, __file__, "--threads", str(count)], check=True)
    slide()


if __name__ == "__main__":
    main()
