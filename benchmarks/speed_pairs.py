"""Is this version as fast as an earlier one on a tile and on a slide? The median ratio of alternating pairs.

git worktree add ../first 0.1.0
python benchmarks/speed_pairs.py --first ../first | tee benchmarks/results/speed_pairs.txt

Both versions are processes that live throughout and take turns (A B, B A, ...): what else runs on the machine hits
both. A turn of ``tile`` is ``TilePredictor.predict_tiles`` on four tiles of 256 px and four of 512 px, a turn of
``slide`` the sample slide from file to table. ``training_speed.py`` does the same for steps of training.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Turn = Callable[[], object]
SIDES = (256, 512)  # px of tiles


def tile_turn() -> Turn:
    """Detect and type the cells of eight tiles."""
    from celldetr.demo_slide import sample_slide
    from celldetr.model.checkpoint import load_checkpoint
    from celldetr.model.hub import find_model
    from celldetr.model.inference import TilePredictor
    from celldetr.slide.reader import open_slide

    checkpoint = load_checkpoint(find_model("small-20x"))
    model = TilePredictor(checkpoint.network, threshold=checkpoint.card.threshold)
    with open_slide(sample_slide()) as slide:
        corners = [(x, y) for y in (256, 1024) for x in (256, 1024)]
        batches = [[slide.read_region(x, y, s, s, s, s) for x, y in corners] for s in SIDES]
    return lambda: [model.predict_tiles(batch) for batch in batches]


def slide_turn() -> Turn:
    """Predict the sample slide into a folder, model loaded and warm."""
    from celldetr.demo_slide import sample_slide
    from celldetr.model.checkpoint import load_checkpoint
    from celldetr.model.hub import find_model
    from celldetr.model.inference import TilePredictor
    from celldetr.slide.engine import run_slide
    from celldetr.slide.reader import open_slide

    checkpoint = load_checkpoint(find_model("small-20x"))
    model = TilePredictor(checkpoint.network, threshold=checkpoint.card.threshold)
    folder = tempfile.mkdtemp()

    def turn() -> None:
        with open_slide(sample_slide()) as reader:
            run: Any = run_slide(reader, model, folder, overwrite=True)
            if hasattr(run, "__enter__"):  # of version 0.1.0 it is a function that has done its work
                with run:
                    pass

    return turn


TURNS = {"tile": tile_turn, "slide": slide_turn}


def work(name: str) -> None:
    """Take a turn for each line on stdin; print its seconds of wall and CPU."""
    turn = TURNS[name]()
    turn()
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        turn()
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


def compare(first: Path, name: str, pairs: int, threads: int) -> None:
    """Print seconds of both versions and the median ratio of the pairs."""
    workers = []
    for root in (first, Path(__file__).resolve().parents[1]):
        env = os.environ | {"PYTHONPATH": str(root.resolve() / "src"), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--first", str(first), "--work", name]
        workers.append(subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for worker in workers:
        read(worker)
    seconds = np.zeros((pairs, 2, 2))  # pair, version, wall and CPU
    for pair in range(pairs):
        for version in (0, 1) if pair % 2 == 0 else (1, 0):
            print(file=workers[version].stdin, flush=True)
            seconds[pair, version] = [float(word) for word in read(workers[version]).split()]
    for worker in workers:
        worker.kill()
        worker.wait()
    ratios = np.median(seconds[:, 1] / seconds[:, 0], axis=0)
    first_wall, now_wall = np.median(seconds[..., 0], axis=0)
    print(
        f"{name:6} {threads} thread{'s' * (threads > 1):1}  wall first {first_wall:.3f} s  now {now_wall:.3f} s  "
        f"now / first, median of {pairs} pairs: wall {ratios[0]:.3f}  cpu {ratios[1]:.3f}",
        flush=True,
    )


def read(worker: subprocess.Popen[str]) -> str:
    """The next line that a worker prints.

    Raises:
        RuntimeError: the worker has ended.
    """
    line = worker.stdout.readline() if worker.stdout else ""
    if not line:
        raise RuntimeError("a worker ended; see above")
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=Path, required=True, help="work tree of the earlier version")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--work", choices=TURNS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work)
        return
    for name in TURNS:
        for threads in given.threads:
            compare(given.first, name, given.pairs, threads)


if __name__ == "__main__":
    main()
