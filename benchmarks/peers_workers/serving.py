"""What all workers share: a peer in an environment of its own that is timed when it is told to.

Standalone: needs NumPy and what the peer itself needs, nothing of CellDETR. ``peers.py`` starts a worker with
``--input FILE.npz --threads N``, reads one line of JSON when the model is built, and then sends a line for each round:
the worker goes over all tiles, again and again for ``TURN`` seconds, and answers with the medians of the wall and CPU
seconds that the network and the post-processing took. The first pass finds the caches full of the others' data; it
counts only if there is no second. Tiles go through the network one by one or ``--batch`` together, whichever was faster
at the start. Whatever the peer prints goes to stderr.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

TURN = 1.0
PACKAGES = (
    "celldetr",
    "stardist",
    "tensorflow-cpu",
    "instanseg-torch",
    "transformers",
    "cellvit",
    "tiatoolbox",
    "torch",
)


@dataclass(frozen=True)
class Tile:
    """A tile and where CellDETR found its nuclei.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        boxes: (N, 4) float32, xyxy in pixels.
    """

    image: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class Peer:
    """A built model.

    Attributes:
        network: from a batch of images, (B, S, S, 3) uint8, to the network's output: normalisation is part of it.
        post: post-processing of tile i, on an output prepared beforehand -> number of nuclei; None if it is part of
            ``network``.
    """

    network: Callable[[np.ndarray], object]
    post: Callable[[int], int] | None


def seconds(work: Callable[[], int]) -> tuple[float, float, int]:
    """Wall and CPU seconds (all threads of the process), and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def versions() -> list[str]:
    """Name and version of the packages that matter, as far as they are here."""
    here = {
        str(package.name).lower().replace("_", "-"): package.version for package in importlib.metadata.distributions()
    }
    return [f"{name} {here[name]}" for name in PACKAGES if name in here]


def serve(build: Callable[[argparse.Namespace, list[Tile]], Peer], *variants: str) -> None:
    """Answer until the driver closes the pipe.

    Args:
        build: from the options (``threads``, ``variant``) and the tiles to the peer.
        variants: what ``--variant`` may be.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--variant", choices=variants or None)
    options = parser.parse_args()
    with np.load(options.input) as arrays:
        owners, boxes = arrays["owners"], arrays["boxes"]
        tiles = [Tile(image, boxes[owners == i]) for i, image in enumerate(arrays["images"])]
    images = np.stack([tile.image for tile in tiles])
    peer = build(options, tiles)

    def networks(batch: int) -> int:
        for start in range(0, len(images), batch):
            peer.network(images[start : start + batch])
        return len(images)

    def posts() -> int:
        return sum(peer.post(i) for i in range(len(tiles))) if peer.post else 0

    speeds = {}
    for batch in sorted({1, options.batch}):
        networks(batch)  # the first call compiles and allocates
        speeds[batch] = seconds(partial(networks, batch))[1]
    best = min(speeds, key=speeds.__getitem__)
    posts()
    print(json.dumps({"versions": versions(), "batch": best}), file=replies, flush=True)
    for _ in sys.stdin:
        passes = []
        while sum(times[0] + times[3] for times in passes) < TURN:
            passes.append((*seconds(partial(networks, best)), *seconds(posts)))
        passes = passes[1:] or passes
        middle = [statistics.median(values) for values in zip(*passes, strict=True)]
        answer = {"network": middle[:2], "post": middle[3:5], "nuclei": passes[0][5]}
        print(json.dumps(answer), file=replies, flush=True)
