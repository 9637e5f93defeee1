"""Optimiser and learning rate: AdamW, linear warm-up, cosine to zero; the backbone at its own, lower rate."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import Parameter

from celldetr.config import TrainConfig
from celldetr.model.celldetr import CellDETR


def build_optimizer(network: CellDETR, config: TrainConfig, beside: Iterable[Parameter] = ()) -> torch.optim.AdamW:
    """AdamW over the backbone, the type head if its rate is its own, and the rest, where these have anything to learn.

    Each group remembers its peak rate as ``peak``. ``beside`` are weights that are no part of the network, and learn
    like the rest of it.
    """
    parts: list[tuple[nn.Module, float]] = [(network.backbone, config.backbone_lr)]
    parts += [(network.type_head, config.head_lr)] if config.head_lr else []
    apart = {id(p) for module, _ in parts for p in module.parameters()}
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in apart]
    rest += list(beside)
    learning = [([p for p in module.parameters() if p.requires_grad], rate) for module, rate in parts]
    groups = [
        {"params": parameters, "lr": rate, "peak": rate}
        for parameters, rate in ((rest, config.lr), *learning)
        if parameters
    ]
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def factor(step: int, config: TrainConfig) -> float:
    """Share of the peak rate at ``step`` (from 0): rises to 1 over the warm-up, then falls as a half cosine to 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def set_rate(optimizer: torch.optim.Optimizer, step: int, config: TrainConfig) -> float:
    """Set the rates for ``step``; returns that of the transformer, or of what learns if that is frozen."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor(step, config)
    return float(optimizer.param_groups[0]["lr"])


def clip_gradients(network: nn.Module, limit: float) -> float:
    """Scale gradients so that their joint norm is at most ``limit``; returns the norm before."""
    parameters = [p for p in network.parameters() if p.grad is not None]
    return float(nn.utils.clip_grad_norm_(parameters, limit))
