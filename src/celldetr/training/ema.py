"""Exponential moving average of the weights: the ones that are evaluated and shipped."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Pairs = tuple[list[Tensor], list[Tensor]]
N = TypeVar("N", bound=nn.Module)


class Average(Generic[N]):
    """Averaged copy of a network.

    The decay rises from 0 as ``(1 + step) / (10 + step)`` up to ``decay``, so that the random start is soon forgotten.
    """

    def __init__(self, network: N, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self._pairs: tuple[Pairs, Pairs] | None = None

    @torch.no_grad()
    def update(self, network: N, step: int) -> None:
        """Move towards ``network`` after training step ``step`` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self._pairs is None:
            self._pairs = self._changing(network)
        own, new = self._pairs[0]
        if own:
            torch._foreach_lerp_(own, new, 1 - decay)
        for mine, theirs in zip(*self._pairs[1], strict=True):
            mine.copy_(theirs)

    def _changing(self, network: N) -> tuple[Pairs, Pairs]:
        """Own tensors and the network's that training may change: those with fractions, and counters.

        The tensors stay the same objects from the first step to the last; listing them takes as long as averaging.
        """
        own, new = self.network.state_dict(), network.state_dict()
        frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
        floating = [name for name in own if name not in frozen and own[name].is_floating_point()]
        counters = [name for name in own if not own[name].is_floating_point()]
        fractions = [own[name] for name in floating], [new[name] for name in floating]
        return fractions, ([own[name] for name in counters], [new[name] for name in counters])
