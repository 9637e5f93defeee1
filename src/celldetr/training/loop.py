"""The training loop, readable from top to bottom; Lightning Fabric brings devices, precision and processes.

Everything random is a function of (seed, step, process): crop i of the run is always the same, so ``resume`` continues as if
nothing had happened. A run is a folder: ``recipe.yaml``, ``state.safetensors``, ``log.jsonl``, ``tensorboard/``, ``curves.png``
and ``model/``, the checkpoint with the averaged weights that did best on validation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
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
from celldetr.model.inference import TilePredictor
from celldetr.model.output import TileCells
from celldetr.training.ema import Average
from celldetr.training.logs import RunLog, draw_curves
from celldetr.training.losses import balance
from celldetr.training.schedule import build_optimizer, clip_gradients, set_rate
from celldetr.training.state import STATE_FILE, load_state, save_state
from celldetr.training.supervised import Supervised

RECIPE_FILE, MODEL_FOLDER = "recipe.yaml", "model"
LOWEST_SCORE = 0.05  # predictions below are never counted, whatever the threshold
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


def validate(network: CellDETR, samples: Sequence[Sample], device: torch.device) -> tuple[float, dict[str, float | None]]:
    """Detection and type F1 on validation images, at the threshold that is best for them.

    Returns:
        the threshold, and numbers by name.
    """
    predictor = TilePredictor(network, threshold=LOWEST_SCORE, device=device)
    types = network.config.types
    images = list(predict_samples(whole_image(predictor), samples, types))
    threshold = best_threshold(images).threshold
    report = score_images(images, types, threshold=threshold, resamples=0)
    numbers: dict[str, float | None] = {
        "f1_detection": report.totals.detection.f1,
        "f1_type_mean": report.totals.mean_f1,
        "threshold": threshold,
        "median_iou": report.median_iou,
    }
    numbers |= {f"f1_{name}": counts.f1 for name, counts in zip(types, report.totals.types, strict=True)}
    return threshold, numbers


def prepare_folder(folder: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """Make or check the folder of a run.

    Raises:
        InputError: it holds a run and neither ``resume`` nor ``overwrite`` was asked, or a run of another recipe.
    """
    path = folder / RECIPE_FILE
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    if resume and path.is_file():
        if yaml.safe_load(path.read_text(encoding="utf-8")) != yaml.safe_load(text):
            raise InputError(f"{folder}: holds a run of another recipe ({path}); resume with the same settings")
    elif folder.exists() and any(folder.iterdir()) and not (overwrite or resume):
        raise InputError(f"{folder}: exists; add --resume to continue the run in it, or --overwrite to start anew")
    if overwrite and not resume:
        (folder / STATE_FILE).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def provenance(recipe: Recipe) -> tuple[dict[str, Any], ...]:
    """What a checkpoint's card says of its training data."""
    facts = []
    for source in recipe.train:
        card = load_card(source.card)
        facts.append({"name": card.name, "split": source.split, "licence": card.licence, "citation": card.citation})
    return tuple(facts)


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
        stop_at: end after this many steps as if interrupted (the state is saved), for tests and time limits.

    Returns:
        the folder of the best checkpoint.

    Raises:
        InputError: wrong settings or data; or a folder that cannot be used.
    """
    settings = recipe.training
    prepare_folder(folder, recipe, resume=resume, overwrite=overwrite)
    fabric = Fabric(
        accelerator=device, devices=devices, precision="bf16-mixed" if settings.precision == "bf16" else "32-true"
    )
    fabric.launch()
    torch.manual_seed(settings.seed)
    types, mpp = recipe.model.types, recipe.model.mpp
    sources = [load_source(source, types, mpp) for source in recipe.train]
    samples = [sample for source in sources for sample in source]
    weights = [spec.weight for spec, source in zip(recipe.train, sources, strict=True) for _ in source]
    held_out = [sample for source in recipe.validation for sample in load_source(source, types, mpp)]
    labels = np.concatenate([sample.types for sample in samples])
    counts = np.bincount(labels[labels >= 0], minlength=len(types)).tolist()

    network = CellDETR(recipe.model)
    average = Average(network, settings.ema)
    objective = Supervised(network, settings, balance(counts, settings.class_balance))
    optimizer = build_optimizer(network, settings)
    start, best = 0, -1.0
    if resume and (folder / STATE_FILE).is_file():
        facts = load_state(folder, network, average.network, optimizer)
        start, best = int(str(facts["step"])), float(str(facts["best"]))
    average.network.to(fabric.device)
    wrapped, optimizer = fabric.setup(objective, optimizer)

    crops = TrainingSet(
        samples, recipe.augment, settings.seed, settings.steps * settings.batch_size * fabric.world_size, weights
    )
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
    saved = clock = time.monotonic()
    seen, running = 0, {}
    for step, batch in enumerate(loader, start):
        rate = set_rate(optimizer, step, settings)
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([settings.seed, step, fabric.global_rank]).generate_state(1)[0])
        )
        to = fabric.device
        loss, terms = wrapped(
            batch.images.to(to), [b.to(to) for b in batch.boxes], [t.to(to) for t in batch.types], generator
        )
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {float(loss)} at step {step}; lower training.lr or use precision=32")
        fabric.backward(loss)
        norm = clip_gradients(network, settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(network, step)
        seen += len(batch.images) * fabric.world_size
        running = {"loss": float(loss.detach()), "gradient_norm": norm, "lr": rate}
        speed = seen / max(time.monotonic() - clock, 1e-9)
        done = step + 1
        if log and (step % LOG_EVERY == 0 or done == settings.steps):
            log.write("train", step, {**running, "images_per_second": speed, **{k: float(v) for k, v in terms.items()}})
        validation = None
        if done % settings.validate_every == 0 or done == settings.steps:
            if log:
                threshold, validation = validate(average.network, held_out, fabric.device)
                log.write("validation", step, validation)
                draw_curves(folder)
                score = sum(validation[key] or 0.0 for key in ("f1_detection", "f1_type_mean")) / 2
                if score > best:
                    best = score
                    card = Card(
                        name=recipe.name,
                        description=recipe.notes,
                        config=recipe.model,
                        threshold=threshold,
                        training_data=provenance(recipe),
                        licence=recipe.licence,
                        metrics={"validation": {**validation, "step": done}},
                        recipe=recipe.model_dump(mode="json"),
                    )
                    save_checkpoint(folder / MODEL_FOLDER, average.network, card)
            fabric.barrier()
        ended = done == settings.steps or done == stop_at
        if log and (ended or validation is not None or time.monotonic() - saved > settings.checkpoint_minutes * 60):
            save_state(folder, network, average.network, optimizer, {"step": done, "best": best})
            saved = time.monotonic()
        if listener and fabric.is_global_zero:
            listener(Progress(done, settings.steps, running["loss"], speed, validation))
        if ended:
            break
    if log:
        log.close()
    return folder / MODEL_FOLDER
