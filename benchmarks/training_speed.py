"""Images a second in training, and where a step's time goes, this version beside an earlier one.

git worktree add ../first 11978d9        # the state that trained the shipped weights
CELLDETR_DATA=<folder> python benchmarks/training_speed.py --first ../first | tee benchmarks/results/training_speed.txt

Both versions are processes that are alive throughout and take turns, a few steps each (A B A B ...), on the same
batches of the recipe with the same seed and the same threads: what else runs on the machine hits both. ``wall`` is
the median over the turns of seconds a step, ``cpu`` that of all threads together. Batches are cut by the loader of the
first version beforehand; what the loader costs is measured apart.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

BATCHES, WARM = 16, 4
STAGES = (
    "backbone",
    "encoder",
    "detector",
    "representer",
    "matching",
    "losses",
    "backward",
    "clip",
    "optimizer",
    "ema",
)


def make_batches(path: Path) -> None:
    """Cut batches of the recipe and print what that costs; run with the version's own sources."""
    import torch

    from celldetr.data.dataset import TrainingSet, collate
    from celldetr.recipes import load_recipe
    from celldetr.training.loop import load_data  # both versions have it there

    recipe = load_recipe("small-20x")
    data = load_data(recipe)
    size = recipe.training.batch_size
    crops = TrainingSet(data.samples, recipe.augment, 0, BATCHES * size, data.weights)
    crops[0]
    start = time.process_time()
    batches = [tuple(collate([crops[size * i + j] for j in range(size)])) for i in range(BATCHES)]
    print(f"{(time.process_time() - start) / BATCHES:.4f}", flush=True)
    torch.save(batches, path)


class Clock:
    """Seconds of wall and CPU by stage; stages inside others count in both."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        total = self.spent.setdefault(stage, [0.0, 0.0])
        total[0] += time.perf_counter() - wall
        total[1] += time.process_time() - cpu

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Time each call of a function or method."""
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(stage):
                return original(*args, **kwargs)

        setattr(owner, name, timed)


def work(path: Path) -> None:
    """Answer each number on stdin by that many steps: prints wall, CPU and the stages."""
    import torch
    from celldetr.training.ema import Average

    from celldetr.model.celldetr import CellDETR
    from celldetr.recipes import load_recipe
    from celldetr.training import supervised
    from celldetr.training.optim import build_optimizer, clip_gradients, set_rate
    from celldetr.training.supervised import Supervised

    recipe = load_recipe("small-20x")
    settings = recipe.training
    torch.manual_seed(settings.seed)
    network = CellDETR(recipe.model)
    average = Average(network, settings.ema)
    objective = Supervised(network, settings, torch.ones(len(recipe.model.types))).train()
    optimizer = build_optimizer(network, settings)
    batches = torch.load(path)
    several = "generators" in inspect.signature(objective.forward).parameters  # a generator an image, not one for all
    clock = Clock()
    clock.wrap(network.backbone, "forward", "backbone")
    clock.wrap(network.encoder, "forward", "encoder")
    clock.wrap(network.detector, "forward", "detector")
    clock.wrap(network.representer, "forward", "representer")
    for name, stage in (("match", "matching"), ("detection_losses", "losses"), ("dense_losses", "losses")):
        clock.wrap(supervised, name, stage)
    step = 0
    print("ready", flush=True)
    for line in sys.stdin:
        clock.spent.clear()
        loss = 0.0
        with clock("step"):
            for _ in range(int(line)):
                images, boxes, types = batches[step % BATCHES]
                set_rate(optimizer, step, settings)
                generators = [torch.Generator().manual_seed(step) for _ in images]
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    total, terms = objective(images, boxes, types, generators if several else generators[0])
                with clock("backward"):
                    total.backward()
                with clock("clip"):
                    clip_gradients(network, settings.clip)
                with clock("optimizer"):
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                with clock("ema"):
                    average.update(network, step)
                loss = float(total.detach())
                _ = {name: float(value) for name, value in terms.items()}
                step += 1
        spent = [value for stage in ("step", *STAGES) for value in clock.spent.get(stage, [0.0, 0.0])]
        print(" ".join(f"{value / int(line):.5f}" for value in spent), f"{loss:.4f}", flush=True)


def compare(first: Path, turns: int, steps: int, threads: int) -> None:
    """Print the table for one number of threads."""
    here = Path(__file__).resolve()
    with tempfile.TemporaryDirectory() as folder:
        batches = Path(folder) / "batches.pt"
        workers, loading = {}, {}
        for name, root in (("first", first), ("now", here.parents[1])):
            env = os.environ | {"PYTHONPATH": str(root.resolve() / "src"), "OMP_NUM_THREADS": str(threads)}
            command = [sys.executable, str(here), "--batches", str(batches)]
            cut = [*command, "--cut"] if name == "first" else [*command[:-1], str(batches) + ".now", "--cut"]
            loading[name] = float(subprocess.run(cut, env=env, check=True, capture_output=True, text=True).stdout)
            workers[name] = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        rows: dict[str, list[list[float]]] = {name: [] for name in workers}
        for worker in workers.values():
            _say(worker, None)
            _say(worker, WARM)
        for _ in range(turns):
            for name, worker in workers.items():
                rows[name].append(_say(worker, steps))
        for worker in workers.values():
            worker.stdin.close()  # type: ignore[union-attr]
            worker.wait()
    table = {name: np.median(values, axis=0) for name, values in rows.items()}
    print(
        f"{threads} thread{'s' * (threads > 1)}, batch 4 of 256 x 256 px, bfloat16: seconds a step (median of {turns})"
    )
    print(f"{'':14}{'first wall':>11}{'now wall':>11}{'ratio':>7}   {'first cpu':>10}{'now cpu':>10}{'ratio':>7}")
    for number, stage in enumerate(("step", *STAGES)):
        a, b = (table[name][2 * number : 2 * number + 2] for name in ("first", "now"))
        ratios = a / np.maximum(b, 1e-9)
        print(f"{stage:14}{a[0]:11.4f}{b[0]:11.4f}{ratios[0]:7.2f}   {a[1]:10.4f}{b[1]:10.4f}{ratios[1]:7.2f}")
    before, after = loading["first"], loading["now"]
    print(f"{'loading':14}{'':29}   {before:10.4f}{after:10.4f}{before / after:7.2f}")
    speeds = {name: 4 / table[name][0] for name in table}
    paired = np.median([a[0] / b[0] for a, b in zip(rows["first"], rows["now"], strict=True)])
    print(f"images a second: first {speeds['first']:.2f}, now {speeds['now']:.2f}; median ratio of turns {paired:.2f}")
    print(f"loss after {WARM + turns * steps} steps: first {table_loss(rows, 'first')}, now {table_loss(rows, 'now')}")


def whole_runs(first: Path, rounds: int, precision: str) -> None:
    """Print images a second of the command itself, loader and all, between its 10th and its 40th step, and the losses.

    All train the first version's recipe, in round n with seed n: losses of one version differ as much as seeds do, and
    those of two should not differ more.
    """
    recipe = first.resolve() / "src/celldetr/recipes/small-20x.yaml"
    ways = {
        "first": (first, []),
        "now": (Path(__file__).resolve().parents[1], []),
        "now, two processes": (Path(__file__).resolve().parents[1], ["--devices", "2"]),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[list[float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for name, (root, options) in ways.items():
                target = Path(folder) / f"{turn}-{len(options)}-{root.name}"
                command = [sys.executable, "-m", "celldetr", "train", str(recipe), "-o", str(target), "--quiet"]
                command += ["training.steps=41", f"training.seed={turn}", f"training.precision={precision}"]
                command += ["--device", "cpu", *options]
                env = os.environ | {"PYTHONPATH": str(root.resolve() / "src")}
                subprocess.run(command, env=env, check=True, capture_output=True)
                log = [json.loads(line) for line in (target / "log.jsonl").read_text().splitlines()]
                ended = {row["step"]: 4 * (row["step"] + 1) / row["images_per_second"] for row in log if "loss" in row}
                speeds[name].append(120 / (ended[40] - ended[10]))
                losses[name].append([row["loss"] for row in log if "loss" in row and row["step"] in (10, 20, 30, 40)])
                shown = ", ".join(f"{loss:.2f}" for loss in losses[name][-1])
                print(f"  {name:20}{speeds[name][-1]:6.2f} images/s, loss of steps 10 to 40: {shown}", flush=True)
    base = np.array(speeds["first"])
    print(f"celldetr train, the first version's recipe, median of {rounds} rounds (each version in turn)")
    for name in ways:
        ratio, loss = np.median(np.array(speeds[name]) / base), np.array(losses[name])
        curve = ", ".join(f"{m:.2f} +- {s:.2f}" for m, s in zip(loss.mean(0), loss.std(0, ddof=1), strict=True))
        print(f"  {name:20}{np.median(speeds[name]):6.2f} images/s, {ratio:.2f} times the first; loss {curve}")


def table_loss(rows: dict[str, list[list[float]]], name: str) -> float:
    """Loss of the last step."""
    return rows[name][-1][-1]


def _say(worker: subprocess.Popen[str], steps: int | None) -> list[float]:
    """Ask a worker for steps; None waits until it is ready."""
    if worker.stdin is None or worker.stdout is None:
        raise RuntimeError("no pipe")
    if steps is not None:
        worker.stdin.write(f"{steps}\n")
        worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError("a worker ended; see above")
    return [float(word) for word in line.split()] if steps is not None else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=Path, help="work tree of the earlier version")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--steps", type=int, default=3, help="a turn")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="of the tables of stages")
    parser.add_argument("--rounds", type=int, default=5, help="of whole runs")
    parser.add_argument("--precision", default="bf16", help="of whole runs: bf16, or 32 for a CPU that has no bfloat16")
    parser.add_argument("--batches", type=Path, help=argparse.SUPPRESS)  # of a worker
    parser.add_argument("--cut", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cut:
        make_batches(given.batches)
    elif given.batches:
        work(given.batches)
    elif given.first:
        for threads in given.threads:
            compare(given.first, given.turns, given.steps, threads)
        if given.rounds:
            whole_runs(given.first, given.rounds, given.precision)
    else:
        parser.error("--first is needed")


if __name__ == "__main__":
    main()
