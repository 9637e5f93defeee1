"""Images a second in training, this version beside an earlier one.

git worktree add ../first 0.1.0
CELLDETR_DATA=<folder> python benchmarks/training_speed.py --first ../first | tee benchmarks/results/training_speed.txt

Both versions are processes that are alive throughout and take turns, a few steps each (A B A B ...): what else runs on
the machine hits both. Each calls ``celldetr.train`` on the recipe of the first version, loader and all, with one seed
and the same threads. ``wall`` is the median over the turns of seconds a step, ``cpu`` that of all threads together; the
losses of all steps should be the same but for rounding.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

WARM = 3  # steps that are not counted


def work(recipe_file: Path, folder: Path, precision: str) -> None:
    """Train; after each step print seconds of wall and CPU and the loss, then wait for a line on stdin."""
    from celldetr import train
    from celldetr.model import checkpoint
    from celldetr.recipes import load_recipe

    settings = ["training.workers=0", f"training.precision={precision}", "training.validate_every=100000"]
    if hasattr(checkpoint, "SETTINGS_OF_0_1"):  # the recipe is the first version's, and so is the network
        settings += [f"model.{key}={value}" for key, value in checkpoint.SETTINGS_OF_0_1.items()]
        settings.append("model.representation_strides=[4, 8, 16, 32]")
    wall, cpu = time.perf_counter(), time.process_time()

    def listener(progress: object) -> None:
        nonlocal wall, cpu
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        print(*seconds, progress.loss, flush=True)  # type: ignore[attr-defined]
        if not sys.stdin.readline():
            raise EOFError
        wall, cpu = time.perf_counter(), time.process_time()

    with suppress(EOFError):  # nobody asks any more
        train(load_recipe(recipe_file, settings), folder, device="cpu", listener=listener)


def compare(first: Path, recipe: Path, turns: int, steps: int, threads: int, precision: str) -> None:
    """Print the table for one number of threads."""
    rows: dict[str, list[list[float]]] = {"first": [], "now": []}
    with tempfile.TemporaryDirectory() as folder:
        workers = {}
        for name, root in (("first", first), ("now", Path(__file__).resolve().parents[1])):
            env = os.environ | {"PYTHONPATH": str(root.resolve() / "src"), "OMP_NUM_THREADS": str(threads)}
            command = [sys.executable, __file__, "--precision", precision, "--work", str(recipe), f"{folder}/{name}"]
            workers[name] = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        for name, worker in workers.items():
            rows[name] += [answer(worker), *take_steps(worker, WARM - 1)]
        for _ in range(turns):
            for name, worker in workers.items():
                rows[name] += take_steps(worker, steps)
        for worker in workers.values():
            worker.kill()
            worker.wait()
    measured = {name: np.array(values)[WARM:].reshape(turns, steps, 3).mean(1) for name, values in rows.items()}
    before, now = (np.median(measured[name], axis=0) for name in ("first", "now"))
    print(f"{threads} thread{'s' * (threads > 1)}, {precision}, seconds a step (median of {turns} turns of {steps})")
    ratios = np.median(measured["first"] / measured["now"], axis=0)
    for column, clock in enumerate(("wall", "cpu")):
        print(f"  {clock:5} first {before[column]:.4f}  now {now[column]:.4f}  median ratio {ratios[column]:.3f}")
    losses = [np.array(rows[name])[:, 2] for name in ("first", "now")]
    apart = np.abs(losses[0] / losses[1] - 1)
    print(f"  largest relative difference of the losses of {len(apart)} steps {apart.max():.1e}, first {apart[0]:.1e}")


def take_steps(worker: subprocess.Popen[str], count: int) -> list[list[float]]:
    """Ask for steps; returns of each seconds of wall and CPU, and the loss."""
    found = []
    for _ in range(count):
        print(file=worker.stdin, flush=True)
        found.append(answer(worker))
    return found


def answer(worker: subprocess.Popen[str]) -> list[float]:
    """Numbers of the next line that a worker prints."""
    line = worker.stdout.readline() if worker.stdout else ""
    if not line:
        raise RuntimeError("a worker ended; see above")
    return [float(word) for word in line.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=Path, help="work tree of the earlier version")
    parser.add_argument("--recipe", type=Path, help="YAML that both versions read; default: consep of the first")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3, help="a turn")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--precision", default="bf16", help="bf16, or 32 for a CPU that has no bfloat16")
    parser.add_argument("--work", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(*given.work, given.precision)
    elif given.first:
        recipe = given.recipe or given.first.resolve() / "src/celldetr/recipes/consep.yaml"
        for threads in given.threads:
            compare(given.first, recipe, given.turns, given.steps, threads, given.precision)
    else:
        parser.error("--first is needed")


if __name__ == "__main__":
    main()
