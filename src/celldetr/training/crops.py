"""Which crops a step draws, and the chance of each: functions of seed, step and place in the batch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from celldetr.training.processes import share


class StepSampler(Sampler[list[int]]):
    """Indices of the crops of each step from ``start`` on; each process takes its own part of a step's batch."""

    def __init__(self, start: int, steps: int, batch: int, rank: int, world: int) -> None:
        self.start, self.steps, self.batch, self.rank, self.part = start, steps, batch, rank, share(batch, world)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = step * self.batch + self.rank * self.part
            yield list(range(first, first + self.part))

    def __len__(self) -> int:
        return self.steps - self.start


def image_generators(seed: int, step: int, first: int, count: int) -> list[torch.Generator]:
    """A source of randomness, on the CPU, for each of the crops ``first`` to ``first + count`` of a step's batch."""
    seeds = (np.random.SeedSequence([seed, step, place]).generate_state(1)[0] for place in range(first, first + count))
    return [torch.Generator().manual_seed(int(state)) for state in seeds]
