"""Run the trials of a study, seed by seed, so that a study that is cut short has all variants on some seeds.

Several trials run side by side as processes of their own; finished ones are kept, interrupted ones are resumed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from celldetr.errors import InputError, near
from celldetr.io.files import output_errors
from celldetr.research.ablation.decoder import run_variants
from celldetr.research.ablation.study import Study
from celldetr.research.ablation.trial import Trial, run_trial
from celldetr.training.loop import Listener


@dataclass(frozen=True)
class Task:
    """What one process does: a trial of a ``whole`` study, or all trials of a seed of a ``decoder`` study."""

    trials: tuple[Trial, ...]
    device: str

    @property
    def name(self) -> str:
        """For people."""
        first = self.trials[0]
        what = first.variant if first.study.kind == "whole" else f"{len(self.trials)} variants"
        return f"{first.study.name}: {what}, seed {first.seed}"

    def missing(self) -> list[Trial]:
        """The trials that have no result yet."""
        return [trial for trial in self.trials if not trial.result()]


def tasks_of(
    study: Study,
    out: Path,
    variants: Sequence[str] = (),
    device: str = "auto",
    seeds: Sequence[int] = (),
    finished: Path | None = None,
) -> list[Task]:
    """The tasks of a study, in order, whether they are finished or not.

    Args:
        study: whose trials.
        out: folder of studies.
        variants, seeds: only these; none named: all.
        device: where to run.
        finished: another folder of studies, whose results count as done.

    Raises:
        InputError: a variant or a seed the study does not have, or no such folder.
    """
    for name in variants:
        if name not in study.variants:
            raise InputError(f"study {study.name!r} has no variant {name!r}; {near(name, study.variants)}")
    for seed in seeds:
        if seed not in study.seeds:
            raise InputError(f"study {study.name!r} has no seed {seed}; it has {', '.join(map(str, study.seeds))}")
    if finished is not None and not finished.is_dir():
        raise InputError(f"{finished}: no such folder; `finished` takes a folder that holds STUDY/VARIANT/seedN")
    chosen = tuple(variants) or tuple(study.variants)
    groups = [chosen] if study.kind == "decoder" else [(name,) for name in chosen]
    tasks = []
    for seed in tuple(seeds) or study.seeds:
        for group in groups:
            trials = tuple(Trial(study, name, seed, out, finished) for name in group)
            tasks.append(Task(trials, device))
    return tasks


def do_task(task: Task, listener: Listener | None = None) -> str:
    """Run what is not finished of a task in this process; returns its name."""
    missing = task.missing()
    if missing and missing[0].study.kind == "whole":
        run_trial(missing[0], task.device, listener)
    elif missing:
        run_variants(missing, task.device, listener)
    return task.name


def run_tasks(
    tasks: Sequence[Task], jobs: int, finished: Callable[[str], object], listener: Listener | None = None
) -> None:
    """Run tasks.

    Args:
        tasks: of ``tasks_of``.
        jobs: how many side by side; 1: in this process, where ``listener`` sees every step.
        finished: called with the name of each task that is done.
        listener: of ``train``.

    Raises:
        InputError: a recipe is wrong or a model to start from is not there, before anything is trained; or from a task;
            those that run beside it are finished first.
    """
    if jobs < 1:
        raise InputError(f"jobs={jobs} must be 1 or more")
    for task in tasks:
        first = task.trials[0]
        first.study.check([trial.variant for trial in task.missing()], first.seed)
        with output_errors(first.out):
            first.out.mkdir(parents=True, exist_ok=True)
    if jobs == 1:
        for task in tasks:
            finished(do_task(task, listener))
        return
    with _shared_processors(jobs), ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            for name in _results(pool, tasks):
                finished(name)
        except KeyboardInterrupt:
            # The pool would wait for trials of an hour; they have saved their state and go on from there.
            for process in list(pool._processes.values()):
                process.terminate()
            raise


def _results(pool: ProcessPoolExecutor, tasks: Sequence[Task]) -> Iterator[str]:
    waiting = {pool.submit(do_task, task) for task in tasks}
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            if future.exception() is not None:
                for other in waiting:
                    other.cancel()
            yield future.result()


@contextmanager
def _shared_processors(jobs: int) -> Iterator[None]:
    """Processes that start inside have their share of the processors each, unless ``OMP_NUM_THREADS`` is set."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(max(1, available // jobs))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
