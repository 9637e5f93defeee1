"""The training loop, readable from top to bottom; Lightning Fabric brings devices, precision and processes.

Everything random is a function of (seed, step, place in the batch): crop i of the run is always the same, so ``resume``
continues as if nothing had happened, with any number of processes. A run is a folder: ``run.json``, ``recipe.yaml``,
``state.safetensors``, ``log.jsonl``, ``tensorboard/``, ``curves.png`` and ``model/``, the checkpoint with the averaged
weights that did best on validation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric

from celldetr.config import Recipe
from celldetr.training.data import load_data
from celldetr.training.folder import MODEL_FOLDER, check_folder, open_folder
from celldetr.training.logs import LOG_EVERY, RunLog, draw_curves
from celldetr.training.pretraining import Pretraining
from celldetr.training.processes import agree, end_others, share, start_fabric
from celldetr.training.run import Run
from celldetr.training.state import STATE_FILE

RUNS: dict[str, type[Run]] = {"supervised": Run, "contrastive": Pretraining}


@dataclass(frozen=True)
class Progress:
    """Told to a listener after every step and every validation."""

    step: int
    steps: int
    loss: float
    images_per_second: float
    validation: dict[str, float | None] | None = None
    warning: str = ""


Listener = Callable[[Progress], None]


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    devices: int = 1,
    listener: Listener | None = None,
    stop_at: int | None = None,
) -> Path:
    """Train a network as a recipe says.

    Args:
        recipe: network, data, schedule.
        folder: of the run; see the module's docstring for what is put there.
        resume: continue the run in ``folder`` from its last state; where there is none, begin.
        overwrite: start anew in a folder that holds a run.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: processes, each with its own device, that share each batch.
        listener: told of progress.
        stop_at: end when this many steps are done, as if interrupted (the state is saved), for tests and time limits.

    Returns:
        the folder of the best checkpoint.

    Raises:
        InputError: wrong settings or data; a folder that cannot be used; a loss that is no number any more.
    """
    fabric = start_fabric(recipe.training.precision, device, devices)
    try:
        return _train(recipe, folder, fabric, resume, overwrite, listener, stop_at)
    except BaseException:  # interrupted, too
        end_others(fabric)
        raise


def _train(
    recipe: Recipe,
    folder: Path,
    fabric: Fabric,
    resume: bool,
    overwrite: bool,
    listener: Listener | None,
    stop_at: int | None,
) -> Path:
    settings = recipe.training
    first = fabric.is_global_zero  # the one process that writes
    share(settings.batch_size, fabric.world_size)
    agree(fabric, lambda: check_folder(folder, recipe, resume=resume, overwrite=overwrite))
    run = RUNS[settings.objective](recipe, folder, fabric, load_data(recipe))
    if not (resume and (folder / STATE_FILE).is_file()):
        agree(fabric, run.initialise)
    # Only now: wrong data or a wrong network must leave nothing behind.
    with open_folder(fabric, folder, recipe, resume=resume, overwrite=overwrite) as held:
        done = _loop(run, run.restore() if resume else 0, listener, stop_at)
        if first and done == settings.steps:
            held.finish(steps=done, seconds=round(run.seconds, 1))
    return folder / MODEL_FOLDER


def _loop(run: Run, start: int, listener: Listener | None, stop_at: int | None) -> int:
    """Train from step ``start`` on; returns how many steps are done."""
    fabric, folder, settings = run.fabric, run.folder, run.recipe.training
    first = fabric.is_global_zero
    run.distribute()  # which gives all processes the weights of the first
    log = RunLog(folder, start) if first else None
    if log and not start and (before := run.begin()) is not None:
        log.write("validation", 0, before)
    fabric.barrier()
    saved = clock = time.monotonic()
    seen, earlier, done = 0, run.seconds, start
    for step, batch in enumerate(run.crops(start), start):
        numbers = run.step(step, batch)
        done = step + 1
        seen += settings.batch_size
        run.seconds += time.monotonic() - clock
        speed = seen / max(run.seconds - earlier, 1e-9)
        ended = done == settings.steps or (stop_at is not None and done >= stop_at)
        if log and (step % LOG_EVERY == 0 or done == settings.steps):
            log.write("train", step, {**numbers, "images_per_second": speed, "seconds": run.seconds})
        validation = None
        if done % settings.validate_every == 0 or done == settings.steps:
            if log:
                validation = run.validate(done)
                log.write("validation", step, validation)
                draw_curves(folder)
                run.illustrate()
            fabric.barrier()
        if log and (ended or validation is not None or time.monotonic() - saved > settings.checkpoint_minutes * 60):
            run.save(done)
            saved = time.monotonic()
        if listener and first:
            told = run.warning or (run.note if step == start else "")
            listener(Progress(done, settings.steps, numbers["loss"], speed, validation, told))
        if ended:
            break
        clock = time.monotonic()  # what validating and saving took is not training
    if log:
        log.close()
    return done
