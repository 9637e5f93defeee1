"""The trainer: what it trains (a network with its loss), the batches of a run, and one step of training.

Everything random is a function of (seed, step, place in the batch), so that a resumed run continues bit for bit, with
any number of processes.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from celldetr.config import TrainConfig
from celldetr.data.dataset import Targets
from celldetr.errors import InputError, OneProcessError
from celldetr.model.celldetr import CellDETR, Memories
from celldetr.model.device import in_bf16
from celldetr.training.criterion import Losses, SetCriterion, TrainingOutput
from celldetr.training.denoising import denoising_queries
from celldetr.training.optim import average_weights, build_optimizer, clip_gradients, freeze, set_rate
from celldetr.training.processes import share

ORIGIN_PX = 1024.0  # training images lie anywhere in a field of this many pixels


@dataclass(frozen=True)
class EncodedImages:
    """B images after the encoder.

    Attributes:
        memories: of the images.
        origin: (B, 2) place of each image's corner in a field of ``ORIGIN_PX``, pixels.
        sizes: (B, 2) width and height, pixels.
    """

    memories: Memories
    origin: Tensor
    sizes: Tensor


class TrainingLoss(nn.Module, ABC):
    """A network with its loss, as one module, so that data parallelism can wrap it.

    Attributes:
        network: the model; parts of it that ``config.freeze`` names have no gradient and stay in evaluation mode.
        criterion: losses of labelled boxes.
    """

    def __init__(self, network: CellDETR, config: TrainConfig, type_weights: Tensor) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.criterion = SetCriterion(config, type_weights)
        self._frozen = freeze(network, config.freeze)

    @abstractmethod
    def forward(
        self, batch: Any, generators: Sequence[torch.Generator], measure: bool = False
    ) -> tuple[Tensor, Losses]:
        """Loss of a batch, and by name its terms and diagnostics, detached.

        Args:
            batch: of the objective's dataset; for images ``Batch``.
            generators: one source of all randomness an image, on the CPU.
            measure: also return diagnostics that take time; for steps that are logged.
        """

    def train(self, mode: bool = True) -> TrainingLoss:
        """Set training mode, except for frozen parts, which have neither dropout nor statistics of the batch."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def encode(self, images: Tensor, generators: Sequence[torch.Generator]) -> EncodedImages:
        """Backbone and encoder on images (B, 3, H, W) uint8, each at a random place."""
        origin, sizes = random_places(images, generators)
        # Where everything before is frozen no graph is kept, and the layers take their faster ways without one.
        frozen = {"backbone", "encoder"} <= set(self.config.freeze)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return EncodedImages(self.network.memorise(images, origin=origin), origin, sizes)

    def detect(
        self, encoded: EncodedImages, targets: Sequence[Targets], generators: Sequence[torch.Generator]
    ) -> TrainingOutput:
        """Detect, with denoising queries if there are any, and match detections to nuclei."""
        groups = self.config.denoising
        denoising = denoising_queries(targets, groups, generators) if groups else None
        extra = denoising.queries if denoising else None
        detection = self.network.detect(encoded.memories, encoded.origin, extra)
        matches = self.criterion.match(detection.layers, targets)
        return TrainingOutput(detection, matches, encoded.sizes, denoising)


def random_places(images: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """``origin`` and ``sizes`` of ``EncodedImages`` for images (B, 3, H, W)."""
    origin = torch.stack([torch.rand(2, generator=rng) for rng in generators]).to(images.device) * ORIGIN_PX
    sizes = images.new_tensor([images.shape[3], images.shape[2]], dtype=torch.float32).expand(len(images), 2)
    return origin, sizes


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM after the block: what is saved after an interruption must fit together."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are delivered to the main thread
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in came:
            signal.raise_signal(each)


class StepSampler(Sampler[list[int]]):
    """Indices of the items of each step from ``start`` on; each process takes its own part of a step's batch."""

    def __init__(self, start: int, steps: int, batch: int, rank: int, world: int) -> None:
        self.start, self.steps, self.batch, self.rank, self.part = start, steps, batch, rank, share(batch, world)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = step * self.batch + self.rank * self.part
            yield list(range(first, first + self.part))

    def __len__(self) -> int:
        return self.steps - self.start


def image_generators(seed: int, step: int, first: int, count: int) -> list[torch.Generator]:
    """A source of randomness, on the CPU, for each of the items ``first`` to ``first + count`` of a step's batch."""
    seeds = (np.random.SeedSequence([seed, step, place]).generate_state(1)[0] for place in range(first, first + count))
    return [torch.Generator().manual_seed(int(state)) for state in seeds]


class Trainer:
    """Trains a network with any objective.

    Attributes:
        loss: the network with its loss.
        average: its averaged weights; ``average.module`` is a ``TrainingLoss``, too.
        optimizer: of everything in ``loss`` that learns.
        done: steps that weights, averages and optimiser have had.
    """

    done = 0

    def __init__(self, loss: TrainingLoss, settings: TrainConfig, fabric: Fabric) -> None:
        self.settings, self.fabric = settings, fabric
        self.loss = loss.to(fabric.device)
        self.average = average_weights(self.loss, settings.ema)
        beside = [p for name, p in loss.named_parameters() if not name.startswith("network.")]
        self.optimizer: torch.optim.Optimizer = build_optimizer(loss.network, settings, beside)
        self._distributed: Any = loss
        self._is_bf16 = in_bf16(settings.precision, fabric.device)

    def distribute(self) -> None:
        """Hand loss and optimiser to Fabric, which gives all processes the weights of the first."""
        self._distributed, self.optimizer = cast(Any, self.fabric.setup(self.loss, self.optimizer))
        self._distributed.train()

    def batches(self, dataset: Dataset[Any], collate: Callable[[Sequence[Any]], Any], start: int = 0) -> Iterator[Any]:
        """Batches of the steps from ``start`` on, of this process.

        Raises:
            OneProcessError: an item of them cannot be read.
        """
        settings, fabric = self.settings, self.fabric
        sampler = StepSampler(start, settings.steps, settings.batch_size, fabric.global_rank, fabric.world_size)
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=settings.workers,
            collate_fn=collate,
            # Not on macOS, where libraries do not survive it, nor on Windows, which has none.
            multiprocessing_context="fork" if settings.workers and sys.platform == "linux" else None,
            pin_memory=fabric.device.type == "cuda",
        )
        try:
            yield from loader
        except InputError as error:  # of a worker, it comes with a traceback before its message
            raise OneProcessError(str(error).rpartition("InputError: ")[2].strip()) from None

    def step(self, step: int, batch: Any, measure: bool = False) -> dict[str, float]:
        """One update; returns loss, its terms, norm of the gradient and rate, the same in all processes.

        Args:
            step: counted from 0.
            batch: this process' part.
            measure: also return the objective's diagnostics.

        Raises:
            InputError: the loss or the gradient is not finite.
        """
        rate = set_rate(self.optimizer, step, self.settings)
        numbers = self.backward(step, batch, measure)
        norm = clip_gradients(self.loss, self.settings.clip)
        self._check_finite("the gradient's norm", norm, step)
        with uninterrupted():
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.average.update_parameters(self.loss)
            self.done = step + 1
        return {"gradient_norm": norm, "lr": rate} | numbers

    def backward(self, step: int, batch: Any, measure: bool = False) -> dict[str, float]:
        """Compute the gradients of a step; returns loss and terms. Arguments and errors as in ``step``."""
        device, world = self.fabric.device, self.fabric.world_size
        count = share(self.settings.batch_size, world)
        generators = image_generators(self.settings.seed, step, self.fabric.global_rank * count, count)
        torch.manual_seed(generators[0].initial_seed())  # dropout draws from the global generator
        # Not by Fabric's own precision, which would round true boxes to a pixel of a crop of 256 px, too.
        with torch.autocast(device.type, torch.bfloat16, enabled=self._is_bf16):
            loss, terms = self._distributed(batch.to(device), generators, measure)
        values = torch.stack([loss.detach().float(), *(value.float() for value in terms.values())])
        if world > 1:
            values = cast(Tensor, self.fabric.all_reduce(values, reduce_op="mean"))
        numbers = dict(zip(("loss", *terms), values.tolist(), strict=True))
        self._check_finite("the loss", numbers["loss"], step)
        self.fabric.backward(loss)
        return numbers

    def _check_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise InputError(
                f"{what} is {value} at step {step}; train anew, in another folder or with overwrite, with a training.lr"
                f" below {self.settings.lr:g} or with training.precision=32"
            )
