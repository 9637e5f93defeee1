"""What a tile costs CellDETR and its peers: side by side, in one run, on one core and on two.

    python benchmarks/peers.py | tee benchmarks/results/peers.txt

Every peer is installed from PyPI into an environment of its own (``--envs``, made once), loaded in its own process.
The processes take turns, round by round, each on the same cores and the same tiles of the sample slide, so that noise
on a shared machine hits all alike: read the ratios. Reported are medians over the rounds per 256 x 256 px tile: CPU
time of all threads and wall time, of the network (from uint8 pixels) and of the post-processing to nuclei.

No weights are downloaded: where a package has none the network has random ones, which take the same time, and the
post-processing is fed maps drawn from the nuclei that CellDETR finds on the tiles (``peers_workers/drawn_nuclei.py``).
What cannot be installed is reported and left out. docs/reports/performance.md has the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.demo_slide import sample_slide
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.slide.reader import open_slide
from peers_catalogue import PEERS, PeerError, interpreter, last_line

SIZE = 256  # px
WORKERS = Path(__file__).parent / "peers_workers"
DEADLINE = 900  # seconds for one answer; building a model included


@dataclass
class Worker:
    """A running peer."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    times: list[dict[str, Any]] = field(default_factory=list)

    def receive(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            PeerError: it has ended, or does not answer.
        """
        assert self.process.stdout is not None
        timer = threading.Timer(DEADLINE, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line:
            self.process.wait()
            raise PeerError(f"does not run: {last_line(self.log.read_text())}")
        return json.loads(line)

    def round(self) -> None:
        """Time all tiles once."""
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        self.times.append(self.receive())

    def stop(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.communicate()

    def median(self, part: str, clock: int, tiles: int) -> float:
        """Milliseconds a tile of ``network`` or ``post``, wall (0) or CPU time (1)."""
        return statistics.median(times[part][clock] for times in self.times) * 1e3 / tiles


def start(name: str, python: Path, tiles: Path, threads: int, batch: int) -> Worker:
    """Load a peer on as many cores as it has threads.

    Raises:
        PeerError: it does not start.
    """
    peer = PEERS[name]
    command = [str(python), str(WORKERS / peer.script), "--input", str(tiles), "--threads", str(threads)]
    command += ["--batch", str(batch)] + (["--variant", peer.variant] if peer.variant else [])
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    # Waiting threads that spin would count as busy.
    environment = os.environ | dict.fromkeys(variables, str(threads)) | {"OMP_WAIT_POLICY": "passive"}
    if peer.packages:
        environment.pop("PYTHONPATH", None)
    log = tiles.with_name(f"{name}.log")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-threads:])  # the child inherits it
    try:
        with log.open("w") as messages:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
                env=environment,
            )
    finally:
        os.sched_setaffinity(0, allowed)
    worker = Worker(name, process, log)
    try:
        ready = worker.receive()
        facts = [*ready["versions"], f"batch {ready['batch']}"] + ([] if peer.weights else ["random weights"])
        print(f"{peer.title}: {', '.join(facts)}", flush=True)
    except BaseException:
        worker.stop()
        raise
    return worker


def cut_tiles(count: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.intp]]:
    """Tiles of the sample slide that are mostly tissue, and its nuclei.

    Returns:
        (count, 256, 256, 3) images, (N, 4) boxes in pixels of their tile, (N,) the tile of each.
    """
    with open_slide(sample_slide()) as slide:
        image = slide.read_region(0, 0, slide.width, slide.height, slide.width, slide.height)
    rng, tiles = np.random.default_rng(0), []
    while len(tiles) < count:
        y, x = (int(rng.integers(0, side - SIZE)) for side in image.shape[:2])
        tile = image[y : y + SIZE, x : x + SIZE]
        if (tile.mean(-1) < 210).mean() > 0.6:
            tiles.append(tile)
    checkpoint = load_checkpoint(find_model("small-20x"))
    cells = TilePredictor(checkpoint.network, threshold=checkpoint.card.threshold).predict_tiles(tiles)
    owners = np.repeat(np.arange(count), [len(found) for found in cells])
    return np.stack(tiles), np.concatenate([found.boxes for found in cells]), owners


def measure(pythons: dict[str, Path], tiles: Path, threads: int, rounds: int, batch: int) -> list[Worker]:
    """Every peer that runs, with its times; the others are printed."""
    workers: list[Worker] = []
    try:
        for name, python in pythons.items():
            try:
                workers.append(start(name, python, tiles, threads, batch))
            except PeerError as error:
                print(f"{PEERS[name].title}: {error}", flush=True)
        for turn in range(rounds):
            load = " ".join(f"{value:.2f}" for value in os.getloadavg())
            for worker in list(workers):
                try:
                    worker.round()
                except PeerError as error:
                    print(f"{PEERS[worker.name].title}: {error}", flush=True)
                    worker.stop()
                    workers.remove(worker)
            print(
                f"{threads} thread{'s' * (threads > 1)}, round {turn + 1} of {rounds}: load {load} before it",
                flush=True,
            )
    finally:
        for worker in workers:
            worker.stop()
    return workers


def report(workers: list[Worker], threads: int, tiles: int) -> None:
    """Print the table of one number of threads."""
    print(
        f"\n{threads} thread{'s' * (threads > 1)}, ms per {SIZE} x {SIZE} px tile, medians. Ratios: to the first row\n"
        f"{'':34}{'CPU time':>24}      {'wall time':>24}     ratio, CPU    ratio, wall\n"
        f"{'':34}{'network':>9}{'post':>6}{'total':>9}      {'network':>9}{'post':>6}{'total':>9}   tile  area    tile"
        "  area   nuclei a tile"
    )
    first: list[float] = []
    for worker in workers:
        peer, row, totals = PEERS[worker.name], f"{PEERS[worker.name].title:34}", []
        for clock in (1, 0):
            network, post = (worker.median(part, clock, tiles) for part in ("network", "post"))
            totals.append(network + post)
            row += f"{network:9.1f}{post:6.1f}{network + post:9.1f}      "
        first = first or totals
        for total, reference in zip(totals, first, strict=True):
            row += f"{total / reference:5.1f} {total / reference / peer.answers:5.1f}   "
        found = worker.times[-1]["nuclei"]
        print(row + (f"  {found / tiles:.0f}" if found else "  -"))
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}; default all")
    parser.add_argument("--envs", type=Path, default=Path("runs/peers-envs"), help="where environments are made")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=4)
    parser.add_argument(
        "--batch",
        type=int,
        default=4,
        help="tiles that may go through a network together; each peer takes this or 1, what is faster",
    )
    options = parser.parse_args()
    names = options.peers.split(",")
    if unknown := [name for name in names if name not in PEERS]:
        parser.error(f"--peers {','.join(unknown)}: expected some of {', '.join(PEERS)}")
    if not hasattr(os, "sched_setaffinity"):
        parser.error("cores cannot be chosen on this system; run it on Linux")
    if max(options.threads) > len(os.sched_getaffinity(0)):
        parser.error(f"--threads {max(options.threads)}: this process may use {len(os.sched_getaffinity(0))} cores")

    print("$ python benchmarks/peers.py", *sys.argv[1:])
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    pythons: dict[str, Path] = {}
    for name in names:
        try:
            pythons[name] = interpreter(PEERS[name], options.envs.absolute())
        except PeerError as error:
            print(f"{PEERS[name].title}: {error}", flush=True)
    images, boxes, owners = cut_tiles(options.tiles)
    print(f"{options.tiles} tiles of the sample slide with {len(boxes)} nuclei in all", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiles.npz"
        np.savez(path, images=images, boxes=boxes, owners=owners)
        for threads in options.threads:
            workers = measure(pythons, path, threads, options.rounds, options.batch)
            report(workers, threads, options.tiles)


if __name__ == "__main__":
    main()
