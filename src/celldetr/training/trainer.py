"""The trainer: weights, their average and the optimiser, the batches of a run, and one step of training.

Everything random is a function of (seed, step, place in the batch), so that a resumed run continues as if nothing had
happened, with any number of processes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from celldetr.config import TrainConfig
from celldetr.errors import InputError, OneProcessError
from celldetr.training.criterion import Losses
from celldetr.training.objective import TrainingLoss
from celldetr.training.optim import average_weights, build_optimizer, clip_gradients, set_rate
from celldetr.training.processes import share


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
    """

    def __init__(self, loss: TrainingLoss, settings: TrainConfig, fabric: Fabric) -> None:
        self.settings, self.fabric = settings, fabric
        self.loss = loss.to(fabric.device)
        self.average = average_weights(self.loss, settings.ema)
        beside = [p for name, p in loss.named_parameters() if not name.startswith("network.")]
        self.optimizer: torch.optim.Optimizer = build_optimizer(loss.network, settings, beside)
        self._distributed: Any = loss

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
        """One update.

        Args:
            step: counted from 0.
            batch: this process' part.
            measure: also return the objective's diagnostics.

        Returns:
            loss, its terms, norm of the gradient, rate; the same in all processes.

        Raises:
            InputError: the loss or the gradient is not finite.
        """
        rate = set_rate(self.optimizer, step, self.settings)
        numbers = self.backward(step, batch, measure)
        norm = clip_gradients(self.loss, self.settings.clip)
        self._check_finite("the gradient's norm", norm, step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.loss)
        return {"gradient_norm": norm, "lr": rate} | numbers

    def backward(self, step: int, batch: Any, measure: bool = False) -> dict[str, float]:
        """Compute the gradients of a step; returns loss and terms. Arguments and errors as in ``step``."""
        count = share(self.settings.batch_size, self.fabric.world_size)
        generators = image_generators(self.settings.seed, step, self.fabric.global_rank * count, count)
        torch.manual_seed(generators[0].initial_seed())  # dropout draws from the global generator
        loss, terms = self._distributed(batch.to(self.fabric.device), generators, measure)
        numbers = self._numbers(loss, terms)
        self._check_finite("the loss", numbers["loss"], step)
        self.fabric.backward(loss)
        return numbers

    def _check_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise InputError(
                f"{what} is {value} at step {step}; train anew, in another folder or with overwrite, with a training.lr"
                f" below {self.settings.lr:g} or with training.precision=32"
            )

    def _numbers(self, loss: Tensor, terms: Losses) -> dict[str, float]:
        """Loss and terms of the whole batch, with one transfer from the device."""
        values = torch.stack([loss.detach(), *terms.values()])
        if self.fabric.world_size > 1:
            values = cast(Tensor, self.fabric.all_reduce(values, reduce_op="mean"))
        return dict(zip(("loss", *terms), values.tolist(), strict=True))
