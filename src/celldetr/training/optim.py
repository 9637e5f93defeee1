"""Optimiser (AdamW), learning rate (linear warm-up, cosine to zero), frozen parts and averaged weights (EMA)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim.swa_utils import AveragedModel

from celldetr.config import Part, TrainConfig
from celldetr.errors import InputError
from celldetr.model.celldetr import CellDETR

TensorList = list[Tensor] | tuple[Tensor, ...]

# The projections take the backbone's features to the encoder: with a frozen encoder behind them, they must not move.
MODULES: dict[Part, tuple[str, ...]] = {
    "backbone": ("backbone", "projections"),
    "encoder": ("encoder",),
    "detector": ("detector",),
    "representer": ("representer",),
}


def freeze(network: CellDETR, parts: Sequence[Part]) -> tuple[nn.Module, ...]:
    """Take the gradient from parts of a network; returns their modules, which have to stay in evaluation mode."""
    modules = tuple(network.get_submodule(name) for part in parts for name in MODULES[part])
    for module in modules:
        module.requires_grad_(False)
    return modules


def check_frozen(parts: Sequence[Part], new: Iterable[str], init: str) -> None:
    """Refuse to freeze parts with weights, ``new``, that the model ``init`` does not have.

    Raises:
        InputError: names the part and the first of these weights.
    """
    for part in parts:
        unknown = [name for name in new if name.partition(".")[0] in MODULES[part]]
        if unknown:
            raise InputError(
                f"training.freeze: {part} has weights that {init!r} does not have or has in another size"
                f" ({unknown[0]}); leave {part} out of freeze, or leave model settings as they are in {init!r}"
            )


def build_optimizer(network: CellDETR, config: TrainConfig, beside: Iterable[Parameter] = ()) -> torch.optim.AdamW:
    """AdamW over the backbone, the type head if its rate is its own, and the rest, with ``beside`` of no network.

    Groups have their peak rate as ``peak``; what does not learn is in none.
    """
    rates: dict[nn.Module, float] = {network.backbone: config.backbone_lr}
    if config.head_lr:
        rates[network.type_head] = config.head_lr
    apart = {parameter for module in rates for parameter in module.parameters()}
    rest = [parameter for parameter in (*network.parameters(), *beside) if parameter not in apart]
    groups = []
    for parameters, rate in ((rest, config.lr), *((list(module.parameters()), rate) for module, rate in rates.items())):
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        if learning:
            groups.append({"params": learning, "lr": rate, "peak": rate})
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def rate_factor(step: int, config: TrainConfig) -> float:
    """Share of the peak rate at ``step`` (from 0): rises to 1 over the warm-up, then falls as a half cosine to 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def set_rate(optimizer: torch.optim.Optimizer, step: int, config: TrainConfig) -> float:
    """Set the rates for ``step``; returns that of the transformer, or of what learns if that is frozen."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate_factor(step, config)
    return float(optimizer.param_groups[0]["lr"])


def clip_gradients(module: nn.Module, limit: float) -> float:
    """Scale gradients so that their joint norm is at most ``limit``; returns the norm before."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    return float(nn.utils.clip_grad_norm_(parameters, limit))


def average_weights(module: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and buffers; counters are copied.

    The decay rises as ``n / (9 + n)`` with the number n of steps up to ``decay``: the random start is soon forgotten.
    """

    @torch.no_grad()
    def update(average: TensorList, current: TensorList, averaged: Tensor | int) -> None:
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, 1 - min(decay, float(averaged) / (9 + float(averaged))))
        else:
            torch._foreach_copy_(average, current)

    averaged = AveragedModel(module, multi_avg_fn=update, use_buffers=True)
    averaged.n_averaged.fill_(1)  # else the first update would copy the weights
    return averaged.eval().requires_grad_(False)
