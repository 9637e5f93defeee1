"""A run in the making: its network, and the three things done to it, a step, a validation and a save."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from celldetr.config import Recipe
from celldetr.data.dataset import Batch, SoftLabels, Told, TrainingSet, collate, collate_told
from celldetr.errors import InputError, OneProcessError
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import Card, load_checkpoint, save_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.model.warm_start import start_from, start_note, without_types
from celldetr.training.card import make_card, provenance
from celldetr.training.criterion import Losses, balance
from celldetr.training.crops import StepSampler, image_generators
from celldetr.training.data import TrainingData
from celldetr.training.ema import Average
from celldetr.training.folder import MODEL_FOLDER
from celldetr.training.freezing import check_known
from celldetr.training.optim import build_optimizer, clip_gradients, set_rate
from celldetr.training.processes import share
from celldetr.training.state import STATE_FILE, load_state, save_state
from celldetr.training.supervised import Supervised
from celldetr.training.validation import LOWEST_SCORE, validate, validate_labelled

UNTYPED_NOTE = (
    "Trained without types: it finds and embeds cells, and its one type says nothing. Fine-tune it for types."
)


class Run:
    """What changes while a network is trained, and the three things done to it: a step, a validation, a save."""

    def __init__(self, recipe: Recipe, folder: Path, fabric: Fabric, data: TrainingData) -> None:
        """Build network and optimiser; nothing is written yet."""
        settings = recipe.training
        torch.manual_seed(settings.seed)
        self.recipe, self.folder, self.fabric, self.data = recipe, folder, fabric, data
        self.sources = provenance(recipe)  # now: files may change while the run goes on
        network = CellDETR(recipe.model)
        self.start: Card | None = None  # of the model whose weights the run starts from
        self.new: tuple[str, ...] = ()  # weights that it does not have
        self.note = ""  # what of that start does not fit
        if recipe.init:
            source = load_checkpoint(find_model(recipe.init))
            new = start_from(network, source.network, types=source.card.types_trained)
            check_known(settings.freeze, new, recipe.init)
            self.note = start_note(network, source.network, new, recipe.init)
            self.start = source.card
            self.new = new
        self.network = network.to(fabric.device)
        self.average = Average(self.network, settings.ema)
        self.head = self.make_head().to(fabric.device)
        self.average_head = Average(self.head, settings.ema)
        self.objective: Any = self.make_objective()
        self.optimizer: Any = build_optimizer(self.network, settings, self.head.parameters())
        self.best = -1.0  # of the validations so far
        self.seconds = 0.0  # of training so far, without validating and saving, before an interruption too
        self.warning = ""  # what the user has to be told now
        self.kept: dict[str, float] = {}  # numbers to be remembered when the run is resumed

    def make_head(self) -> nn.Module:
        """What learns beside the network and is no part of its checkpoint: here nothing."""
        return nn.Identity()

    def make_objective(self) -> nn.Module:
        """The network with its loss."""
        settings = self.recipe.training
        return Supervised(self.network, settings, balance(self.data.counts, settings.class_balance))

    def images(self, length: int) -> tuple[Dataset[Any], Callable[[Any], Any]]:
        """``length`` training images, and how some of them become a batch."""
        data, settings = self.data, self.recipe.training
        # Where compositions are learned, images without a cell of known type have something to say, too.
        some = settings.labels == "some" and sum(data.counts) > 0 and not settings.w_composition
        return (
            TrainingSet(data.samples, self.recipe.augment, settings.seed, length, data.weights, around_cells=some),
            collate,
        )

    def restore(self) -> int:
        """Continue from the state in the folder, if there is one; returns the steps done."""
        if not (self.folder / STATE_FILE).is_file():
            return 0
        facts = load_state(self.folder, self.network, self.average.network, self.optimizer, self._heads())
        self.best = float(str(facts["best"]))
        if facts.get("data", self.data.digest) != self.data.digest:
            raise InputError(
                f"{self.folder}: the labelled cells of its data have changed since it was interrupted; bring them back,"
                " or train anew with `overwrite=True`"
            )
        self.seconds = float(str(facts.get("seconds", 0.0)))
        self.kept = cast(dict[str, float], facts.get("kept", {}))
        return int(str(facts["step"]))

    def initialise(self) -> None:
        """Weights that the data decide before the first step, in the first process alone; here none."""

    def distribute(self) -> None:
        """Hand network and optimiser to Fabric."""
        self.objective, self.optimizer = self.fabric.setup(self.objective, self.optimizer)
        self.objective.train()

    def _heads(self) -> nn.Module:
        return nn.ModuleDict({"now": self.head, "average": self.average_head.network})

    def begin(self) -> dict[str, float | None] | None:
        """What is to be known of the network before it learns anything, to be logged; here nothing."""
        return None

    def illustrate(self) -> None:
        """Draw what the last validation found, beside the curves; here nothing."""

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """One update.

        Args:
            step: counted from 0.
            batch: this process' part.

        Returns:
            loss, its terms, norm of the gradient, rate; the same in all processes.

        Raises:
            InputError: the loss or the gradient is no number any more.
        """
        settings = self.recipe.training
        rate = set_rate(self.optimizer, step, settings)
        numbers = self.gradients(step, batch)
        norm = clip_gradients(nn.ModuleList([self.network, self.head]), settings.clip)
        self._check_finite("the gradient's norm", norm, step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.network, step)
        self.average_head.update(self.head, step)
        return {"gradient_norm": norm, "lr": rate} | numbers

    def gradients(self, step: int, batch: Batch) -> dict[str, float]:
        """Give the network the gradients of a step; returns loss and terms. Arguments and errors as in ``step``."""
        settings = self.recipe.training
        count = share(settings.batch_size, self.fabric.world_size)
        generators = image_generators(settings.seed, step, self.fabric.global_rank * count, count)
        torch.manual_seed(generators[0].initial_seed())  # dropout draws from the global generator
        images = batch.images.to(self.fabric.device, non_blocking=True)
        soft = getattr(batch, "soft", None)  # views of cells have none
        told = () if soft is None else (SoftLabels(*self._labels(soft)),)
        loss, terms = self.objective(images, *self._labels(batch[1:3]), generators, *told)
        numbers = self._numbers(loss, terms)
        self._check_finite("the loss", numbers["loss"], step)
        self.fabric.backward(loss)
        return numbers

    def _check_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise InputError(
                f"{self.folder}: {what} is {value} at step {step}; train anew, in another folder or with"
                f" `overwrite=True`, with a training.lr below {self.recipe.training.lr:g} or with training.precision=32"
            )

    def _labels(self, parts: Iterable[Iterable[Tensor]]) -> list[list[Tensor]]:
        to = self.fabric.device
        return [[each.to(to, non_blocking=True) for each in labels] for labels in parts]

    def _numbers(self, loss: Tensor, terms: Losses) -> dict[str, float]:
        """Loss and terms of the whole batch, with one transfer from the device."""
        values = torch.stack([loss.detach(), *terms.values()])
        if self.fabric.world_size > 1:
            values = cast(Tensor, self.fabric.all_reduce(values, reduce_op="mean"))
        return dict(zip(("loss", *terms), values.tolist(), strict=True))

    def validate(self, done: int) -> dict[str, float | None]:
        """Score the averaged weights and keep them if they are the best so far."""
        predictor = TilePredictor(self.average.network, threshold=LOWEST_SCORE, device=self.fabric.device)
        if self.start is not None and self.recipe.training.labels == "some":
            # Found as the start finds: its threshold was chosen where every nucleus is labelled.
            threshold = self.start.threshold
            numbers = validate_labelled(predictor, self.data.held_out, threshold)
        else:
            threshold, numbers = validate(predictor, self.data.held_out)
        types = numbers.get("f1_type_mean")
        if types is None:  # no cell has one: what is known of groups of cells has to do
            types = numbers.get("composition_agreement")
        found = numbers.get("f1_detection") or 0.0
        # Where no types are learned those that the network tells are chance, and must not choose.
        score = (found + (types or 0.0)) / 2 if self.recipe.training.learns_types else found
        if score > self.best:
            self.best = score
            self.keep(threshold, numbers, done)
        return numbers

    def keep(self, threshold: float, numbers: dict[str, float | None], done: int) -> None:
        """Save the averaged weights as the checkpoint of the run; where types were not learned, without any."""
        settings, network = self.recipe.training, self.average.network
        card = make_card(self.recipe, threshold, numbers, done, self.data.apart, self.sources)
        taught = settings.learns_types and (sum(self.data.counts) > 0 or settings.w_composition > 0)
        known = taught or (self.start is not None and self.start.types_trained)
        if settings.objective == "contrastive" or not known:
            network = without_types(network)
            description = " ".join(part for part in (card.description.strip(), UNTYPED_NOTE) if part)
            told = {"config": network.config, "types_trained": False, "description": description}
            card = card.model_copy(update=told)
        save_checkpoint(self.folder / MODEL_FOLDER, network, card)

    def save(self, done: int) -> None:
        """Write all that ``restore`` needs."""
        facts: dict[str, object] = {"step": done, "best": self.best, "seconds": self.seconds, "kept": self.kept}
        facts["data"] = self.data.digest
        save_state(self.folder, self.network, self.average.network, self.optimizer, facts, self._heads())

    def crops(self, start: int) -> Iterator[Any]:
        """Batches of the steps from ``start`` on, of this process.

        Raises:
            OneProcessError: an image of them cannot be read.
        """
        settings, fabric = self.recipe.training, self.fabric
        images, together = self.images(settings.steps * settings.batch_size)
        loader = DataLoader(
            Told(images),
            batch_sampler=StepSampler(
                start, settings.steps, settings.batch_size, fabric.global_rank, fabric.world_size
            ),
            num_workers=settings.workers,
            collate_fn=partial(collate_told, together),
            # Not on macOS, where libraries do not survive it, nor on Windows, which has none.
            multiprocessing_context="fork" if settings.workers and sys.platform == "linux" else None,
            pin_memory=fabric.device.type == "cuda",
        )
        for batch in loader:
            if isinstance(batch, InputError):
                raise OneProcessError(str(batch))
            yield batch
