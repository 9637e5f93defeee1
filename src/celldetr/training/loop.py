"""The training loop: steps, validation, checkpoints and log of a run; Lightning Fabric brings devices and processes.

A run is a folder: ``run.json``, ``recipe.yaml``, ``state.safetensors``, ``log.jsonl``, ``tensorboard/``, ``curves.png``
and ``model/``, the checkpoint with the averaged weights that did best on validation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from celldetr.config import Recipe
from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import load_checkpoint, save_familiarity
from celldetr.model.device import in_float32
from celldetr.model.hub import find_model
from celldetr.model.warm_start import start_from, start_note
from celldetr.training.card import provenance, save_model, save_outlined
from celldetr.training.data import TrainingData, load_data
from celldetr.training.familiarity import add_familiarity
from celldetr.training.folder import MODEL_FOLDER, check_folder, open_folder
from celldetr.training.logs import LOG_EVERY, RunLog, draw_curves
from celldetr.training.objective import Objective, Start, Validation
from celldetr.training.optim import check_frozen
from celldetr.training.pretraining import ContrastiveObjective
from celldetr.training.processes import agree, end_others, share, start_fabric
from celldetr.training.state import STATE_FILE, load_state, save_state
from celldetr.training.supervised import SupervisedObjective
from celldetr.training.trainer import Trainer, TrainingLoss
from celldetr.training.validation import Numbers

OBJECTIVES: dict[str, Callable[[Recipe, CellDETR, TrainingData, Start | None], Objective]] = {
    "supervised": SupervisedObjective,
    "contrastive": ContrastiveObjective,
}


@dataclass(frozen=True)
class TrainingProgress:
    """State of a run after a step.

    Attributes:
        step, steps: done, and of the run.
        loss: of the step.
        images_per_second: since the process began.
        validation: numbers by name, after steps that are validated.
        warning: for the user; "" where nothing is wrong.
    """

    step: int
    steps: int
    loss: float
    images_per_second: float
    validation: Numbers | None = None
    warning: str = ""


Listener = Callable[[TrainingProgress], None]


@in_float32()
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
        folder: of the run.
        resume: continue the run in ``folder`` from its last state; where there is none, begin.
        overwrite: start anew in a folder that holds a run.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: processes, each with its own device, that share each batch.
        listener: called after every step.
        stop_at: end when this many steps are done, as if interrupted (the state is saved), for tests and time limits.

    Returns:
        the folder of the best checkpoint.

    Raises:
        InputError: wrong settings or data; a folder that cannot be used; a loss that is not finite.

    Examples:
        >>> import celldetr, tifffile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from celldetr.recipes import load_recipe
        >>> from celldetr.recipes.own_data import own_sources
        >>> image = tifffile.imread(celldetr.sample_slide())[900:1150, 950:1200]
        >>> cells = celldetr.load_model("small-20x").predict(image, mpp=0.499)
        >>> Path("labels").mkdir()
        >>> Image.fromarray(image).save("labels/a.png")
        >>> labels = cells[["x_px", "y_px", "type"]].set_axis(["x", "y", "class"], axis=1)
        >>> labels.to_csv("labels/a.csv", index=False)
        >>> settings = ["init=small-20x", "training.steps=1", "training.batch_size=1", "training.warmup=0"]
        >>> recipe = load_recipe("finetune", settings, own_sources(Path("labels"), mpp=0.499))
        >>> celldetr.train(recipe, Path("run")).as_posix()
        'run/model'
    """
    fabric = start_fabric(device, devices)
    try:
        share(recipe.training.batch_size, fabric.world_size)
        agree(fabric, lambda: check_folder(folder, recipe, resume=resume, overwrite=overwrite))
        data = load_data(recipe)
        objective, start = build(recipe, data, fabric.device)
        if not (resume and (folder / STATE_FILE).is_file()):
            agree(fabric, objective.initialise)
        outlined = start if recipe.training.outlines_only else None
        run = _Run(recipe, folder, data, objective, Trainer(objective.loss, recipe.training, fabric), outlined)
        # Only now: wrong data or a wrong network must leave nothing behind.
        with open_folder(fabric, folder, recipe, resume=resume, overwrite=overwrite) as held:
            first = run.restore() if resume else 0
            try:
                done = _loop(run, first, start.note if start else "", listener, stop_at)
            except KeyboardInterrupt:
                if fabric.is_global_zero:
                    run.save_interrupted()
                raise
            if fabric.is_global_zero and done == recipe.training.steps:
                model, drawn = folder / MODEL_FOLDER, (data.samples, data.weights)
                if outlined and outlined.familiarity:  # of the same embeddings
                    save_familiarity(model, outlined.familiarity)
                else:
                    add_familiarity(model, *drawn, recipe, fabric.device)
                held.finish(steps=done, seconds=round(run.seconds, 1))
    except BaseException:  # interrupted, too
        end_others(fabric)
        raise
    return folder / MODEL_FOLDER


def build(recipe: Recipe, data: TrainingData, device: torch.device) -> tuple[Objective, Start | None]:
    """Make the network of a recipe with its objective, with the weights of ``recipe.init`` if there is one."""
    torch.manual_seed(recipe.training.seed)
    network = CellDETR(recipe.model)
    start = None
    if recipe.init:
        source = load_checkpoint(find_model(recipe.init))
        new = start_from(network, source.network, types=source.card.types_trained)
        check_frozen(recipe.training.freeze, new, recipe.init)
        note = start_note(network, source.network, new, recipe.init)
        start = Start(source.card, new, note, source.familiarity)
    return OBJECTIVES[recipe.training.objective](recipe, network.to(device), data, start), start


class _Run:
    """A run with its folder: what is saved, restored and validated; ``outlined``: its start, if it learns outlines
    alone."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        data: TrainingData,
        objective: Objective,
        trainer: Trainer,
        outlined: Start | None = None,
    ) -> None:
        self.recipe, self.folder, self.data, self.outlined = recipe, folder, data, outlined
        self.objective, self.trainer = objective, trainer
        self.sources = provenance(recipe, data.seen)  # now: files may change while the run goes on
        self.best = -1.0  # score of the validations so far
        self.seconds = 0.0  # of training so far, without validating and saving, before an interruption too
        self.saved = self.validated = 0  # steps done when the state was last saved, and the network last validated

    @property
    def average(self) -> TrainingLoss:
        return cast(TrainingLoss, self.trainer.average.module)

    def restore(self) -> int:
        """Continue from the state in the folder, if there is one; returns the steps done."""
        if not (self.folder / STATE_FILE).is_file():
            return 0
        facts = load_state(self.folder, self.trainer.loss, self.trainer.average, self.trainer.optimizer)
        if facts["data"] != self.data.digest:
            raise InputError(
                f"{self.folder}: the labelled cells of its data have changed since it was interrupted; bring them back,"
                " or train anew with `overwrite=True`"
            )
        self.best, self.seconds, self.objective.memory = facts["best"], facts["seconds"], facts["memory"]
        self.saved = self.trainer.done = int(facts["step"])
        return self.saved

    def save(self, done: int) -> None:
        """Write all that ``restore`` needs."""
        facts = {
            "step": done,
            "best": self.best,
            "seconds": self.seconds,
            "memory": self.objective.memory,
            "data": self.data.digest,
        }
        save_state(self.folder, self.trainer.loss, self.trainer.average, self.trainer.optimizer, facts)
        self.saved = done

    def save_interrupted(self) -> None:
        """Write the state of an interrupted run, unless a validation is due that resuming would leave out."""
        done = self.trainer.done
        if done > self.saved and (self.validated == done or not self.is_validated_at(done)):
            self.save(done)

    def is_validated_at(self, done: int) -> bool:
        """Whether the network is validated after so many steps."""
        return done % self.recipe.training.validate_every == 0 or done == self.recipe.training.steps

    def validate(self, done: int) -> Validation:
        """Score the averaged weights, and save them if they are the best so far."""
        validation = self.objective.validate(self.average)
        if validation.score > self.best:
            self.best = validation.score
            apart = {"held_out": self.data.apart} if self.data.apart else {}
            metrics = {**validation.numbers, "step": done, **apart}
            model, network = self.folder / MODEL_FOLDER, self.average.network
            if self.outlined:
                save_outlined(model, network, self.outlined.card, metrics=metrics, sources=self.sources)
            else:
                save_model(
                    model,
                    network,
                    self.recipe,
                    validation.threshold,
                    metrics=metrics,
                    sources=self.sources,
                    types_trained=self.objective.types_trained,
                )
        self.validated = done
        return validation


def _loop(run: _Run, start: int, note: str, listener: Listener | None, stop_at: int | None) -> int:
    """Train from step ``start`` on, with a ``note`` for the listener; returns how many steps are done."""
    trainer, objective, fabric, settings = run.trainer, run.objective, run.trainer.fabric, run.recipe.training
    trainer.distribute()
    log = RunLog(run.folder, start) if fabric.is_global_zero else None  # one process writes
    if log and not start and (baseline := objective.baseline(run.average)) is not None:
        log.write("validation", 0, baseline)
    fabric.barrier()
    saved = clock = time.monotonic()
    seen, earlier, done = 0, run.seconds, start
    dataset = objective.dataset(settings.steps * settings.batch_size)
    for step, batch in enumerate(trainer.batches(dataset, objective.collate, start), start):
        done, warning, validation = step + 1, note, None
        logged = step % LOG_EVERY == 0 or done == settings.steps
        numbers = trainer.step(step, batch, logged)
        seen += settings.batch_size
        run.seconds += time.monotonic() - clock
        speed = seen / max(run.seconds - earlier, 1e-9)
        ended = done == settings.steps or (stop_at is not None and done >= stop_at)
        if log and logged:
            log.write("train", step, {**numbers, "images_per_second": speed, "seconds": run.seconds})
            warning = objective.warning(numbers) or warning
        if run.is_validated_at(done):
            if log:
                validation = run.validate(done)
                log.write("validation", step, validation.numbers)
                draw_curves(run.folder)
                objective.draw(run.folder)
                warning = validation.warning or warning
            fabric.barrier()
        if log and (ended or validation or time.monotonic() - saved > settings.checkpoint_minutes * 60):
            run.save(done)
            saved = time.monotonic()
        if log and listener:
            validated = validation.numbers if validation else None
            listener(TrainingProgress(done, settings.steps, numbers["loss"], speed, validated, warning))
        if ended:
            break
        note = ""
        clock = time.monotonic()  # what validating and saving took is not training
    if log:
        log.close()
    return done
