"""The training loop, readable from top to bottom; Lightning Fabric brings devices, precision and processes.

Everything random is a function of (seed, step, process): crop i of the run is always the same, so ``resume`` continues
as if nothing had happened. A run is a folder: ``recipe.yaml``, ``state.safetensors``, ``log.jsonl``, ``tensorboard/``,
``curves.png`` and ``model/``, the checkpoint with the averaged weights that did best on validation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from celldetr.config import Recipe
from celldetr.data.card import load_card
from celldetr.data.dataset import load_source
from celldetr.data.loader import TrainingSet, collate
from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.evaluation.cells import predict_samples
from celldetr.evaluation.evaluate import score_images
from celldetr.evaluation.threshold import best_threshold
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import Card, save_checkpoint
from celldetr.model.inference import TilePredictor, pick_device
from celldetr.model.output import TileCells
from celldetr.training.ema import Average
from celldetr.training.folder import MODEL_FOLDER, check_folder, prepare_folder
from celldetr.training.logs import RunLog, draw_curves
from celldetr.training.losses import balance
from celldetr.training.schedule import build_optimizer, clip_gradients, set_rate
from celldetr.training.state import STATE_FILE, load_state, save_state
from celldetr.training.supervised import Supervised

LOWEST_SCORE = 0.05  # predictions below are never counted, whatever the threshold
PROTOCOL = "within-radius"  # of the threshold and of the choice among checkpoints: under ``standard`` F1 is noisier
LOG_EVERY = 10  # steps


@dataclass(frozen=True)
class Progress:
    """Told to a listener after every step and every validation."""

    step: int
    steps: int
    loss: float
    images_per_second: float
    validation: dict[str, float | None] | None = None


Listener = Callable[[Progress], None]


class StepSampler(Sampler[list[int]]):
    """Indices of the crops of each step from ``start`` on; each process takes its own part of a step's batch."""

    def __init__(self, start: int, steps: int, batch: int, rank: int, world: int) -> None:
        self.start, self.steps, self.batch, self.rank, self.world = start, steps, batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = (step * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))

    def __len__(self) -> int:
        return self.steps - self.start


def whole_image(predictor: TilePredictor) -> Callable[[NDArray[np.uint8], float], TileCells]:
    """Predict labelled images in one piece each; they are at the model's mpp already."""

    def predict(image: NDArray[np.uint8], mpp: float) -> TileCells:
        return predictor.predict_tiles([image])[0]

    return predict


def validate(
    network: CellDETR, samples: Sequence[Sample], device: torch.device
) -> tuple[float, dict[str, float | None]]:
    """Detection and type F1 on validation images, at the threshold that is best for them.

    Returns:
        the threshold, and numbers by name; those under ``PROTOCOL``, except for ``f1_detection_standard``.
    """
    predictor = TilePredictor(network, threshold=LOWEST_SCORE, device=device)
    types = network.config.types
    images = list(predict_samples(whole_image(predictor), samples, types))
    # A network at its start finds nothing: no threshold is better than another, and the run must go on.
    found = any(len(image.pred_scores) for image in images)
    threshold = best_threshold(images, PROTOCOL).threshold if found else LOWEST_SCORE
    report = score_images(images, types, PROTOCOL, threshold=threshold, resamples=0)
    standard = score_images(images, types, "standard", threshold=threshold, resamples=0)
    numbers: dict[str, float | None] = {
        "f1_detection": report.totals.detection.f1,
        "f1_type_mean": report.totals.mean_f1,
        "f1_detection_standard": standard.totals.detection.f1,
        "threshold": threshold,
        "median_iou": report.median_iou,
    }
    numbers |= {f"f1_{name}": counts.f1 for name, counts in zip(types, report.totals.types, strict=True)}
    return threshold, numbers


@dataclass(frozen=True)
class TrainingData:
    """Images of a recipe at the model's resolution and with its types.

    Attributes:
        samples: to train on, and for each how often it is drawn (``weights``).
        held_out: to validate on.
        counts: labelled cells of each type in ``samples``.
    """

    samples: list[Sample]
    weights: list[float]
    held_out: list[Sample]
    counts: list[int]


def load_data(recipe: Recipe) -> TrainingData:
    """Read what a recipe names.

    Raises:
        InputError: wrong data, or none to train or to validate on; said now rather than after an hour of training.
    """
    types, mpp = recipe.model.types, recipe.model.mpp
    sources = [load_source(source, types, mpp) for source in recipe.train]
    samples = [sample for source in sources for sample in source]
    weights = [spec.weight for spec, source in zip(recipe.train, sources, strict=True) for _ in source]
    held_out = [sample for source in recipe.validation for sample in load_source(source, types, mpp)]
    for part, images in (("train", samples), ("validation", held_out)):
        if not any(len(sample) for sample in images):
            raise InputError(f"recipe {recipe.name!r}: no labelled cell in {part}; name a source that has some")
    labels = np.concatenate([sample.types for sample in samples])
    counts = np.bincount(labels[labels >= 0], minlength=len(types)).tolist()
    return TrainingData(samples, weights, held_out, counts)


def provenance(recipe: Recipe) -> tuple[dict[str, Any], ...]:
    """What a checkpoint's card says of its training data."""
    facts = []
    for source in recipe.train:
        card = load_card(source.card)
        facts.append({"name": card.name, "split": source.split, "licence": card.licence, "citation": card.citation})
    return tuple(facts)


def make_card(recipe: Recipe, threshold: float, validation: dict[str, float | None], step: int) -> Card:
    """The card of a checkpoint made by a recipe."""
    return Card(
        name=recipe.name,
        description=recipe.notes,
        config=recipe.model,
        threshold=threshold,
        training_data=provenance(recipe),
        licence=recipe.licence,
        metrics={"validation": {**validation, "step": step}},
        recipe=recipe.model_dump(mode="json"),
    )


def start_fabric(precision: str, device: str, devices: int) -> Fabric:
    """Devices, precision and processes.

    Raises:
        InputError: a device that does not exist here.
    """
    chosen = pick_device(device)
    fabric = Fabric(
        accelerator=chosen.type,
        devices=devices if chosen.index is None or devices > 1 else [chosen.index],
        # A batch without a nucleus leaves the representation decoder without a gradient.
        strategy="ddp_find_unused_parameters_true" if devices > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


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
        resume: continue the run in ``folder`` from its last state.
        overwrite: start anew in a folder that holds a run.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: processes, each with its own device; the batch size is per process.
        listener: told of progress.
        stop_at: end when this many steps are done, as if interrupted (the state is saved), for tests and time limits.

    Returns:
        the folder of the best checkpoint.

    Raises:
        InputError: wrong settings or data; or a folder that cannot be used.
    """
    settings = recipe.training
    fabric = start_fabric(settings.precision, device, devices)
    if fabric.is_global_zero:  # the others would find the folder of the first
        check_folder(folder, recipe, resume=resume, overwrite=overwrite)
    data = load_data(recipe)
    torch.manual_seed(settings.seed)
    network = CellDETR(recipe.model).to(fabric.device)
    average = Average(network, settings.ema)
    objective = Supervised(network, settings, balance(data.counts, settings.class_balance))
    optimizer = build_optimizer(network, settings)
    if fabric.is_global_zero:  # only now: wrong data or a wrong network must leave nothing behind
        prepare_folder(folder, recipe, resume=resume, overwrite=overwrite)
    fabric.barrier()
    start, best = 0, -1.0
    if resume and (folder / STATE_FILE).is_file():
        facts = load_state(folder, network, average.network, optimizer)
        start, best = int(str(facts["step"])), float(str(facts["best"]))
    wrapped, optimizer = fabric.setup(objective, optimizer)

    total = settings.steps * settings.batch_size * fabric.world_size
    crops = TrainingSet(data.samples, recipe.augment, settings.seed, total, data.weights)
    sampler = StepSampler(start, settings.steps, settings.batch_size, fabric.global_rank, fabric.world_size)
    loader = DataLoader(
        crops,
        batch_sampler=sampler,
        num_workers=settings.workers,
        collate_fn=collate,
        multiprocessing_context="fork" if settings.workers else None,
    )
    log = RunLog(folder, start) if fabric.is_global_zero else None
    wrapped.train()
    validation: dict[str, float | None] | None
    saved = clock = time.monotonic()
    seen = 0
    for step, batch in enumerate(loader, start):
        rate = set_rate(optimizer, step, settings)
        chance = int(np.random.SeedSequence([settings.seed, step, fabric.global_rank]).generate_state(1)[0])
        generator = torch.Generator().manual_seed(chance)
        torch.manual_seed(chance)  # dropout draws from the global generator
        to = fabric.device
        loss, terms = wrapped(
            batch.images.to(to), [b.to(to) for b in batch.boxes], [t.to(to) for t in batch.types], generator
        )
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"loss is {float(loss.detach())} at step {step}; lower training.lr or use precision=32"
            )
        fabric.backward(loss)
        norm = clip_gradients(network, settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(network, step)
        seen += len(batch.images) * fabric.world_size
        running: dict[str, float | None] = {"gradient_norm": norm, "lr": rate}
        running["loss"] = lost = float(loss.detach())
        speed = seen / max(time.monotonic() - clock, 1e-9)
        done = step + 1
        if log and (step % LOG_EVERY == 0 or done == settings.steps):
            log.write("train", step, {**running, "images_per_second": speed, **{k: float(v) for k, v in terms.items()}})
        validation = None
        if done % settings.validate_every == 0 or done == settings.steps:
            if log:
                threshold, validation = validate(average.network, data.held_out, fabric.device)
                log.write("validation", step, validation)
                draw_curves(folder)
                score = sum(validation[key] or 0.0 for key in ("f1_detection", "f1_type_mean")) / 2
                if score > best:
                    best = score
                    save_checkpoint(
                        folder / MODEL_FOLDER, average.network, make_card(recipe, threshold, validation, done)
                    )
            fabric.barrier()
        ended = done == settings.steps or (stop_at is not None and done >= stop_at)
        if log and (ended or validation is not None or time.monotonic() - saved > settings.checkpoint_minutes * 60):
            save_state(folder, network, average.network, optimizer, {"step": done, "best": best})
            saved = time.monotonic()
        if listener and fabric.is_global_zero:
            listener(Progress(done, settings.steps, lost, speed, validation))
        if ended:
            break
    if log:
        log.close()
    return folder / MODEL_FOLDER
