"""Dropout that costs little on a CPU.

PyTorch draws two 32-bit numbers an element there, one after another: a sixth of a training step. Eight elements share
one 64-bit draw here, a byte each, so the share that is dropped is a multiple of 1/256; what is kept is scaled by the
share that is really kept, as ever (Srivastava et al., JMLR 2014).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Dropout(nn.Module):
    """Like ``torch.nn.Dropout``, which it is on other devices; draws from PyTorch's global generator."""

    def __init__(self, p: float) -> None:
        """Drop a share ``p`` of the elements in training."""
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape and floating dtype -> the same."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or self.p == 1:
            return functional.dropout(x, self.p, training=True)
        level = min(max(round(256 * self.p), 1), 255)
        draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        dropped = (draws.view(torch.uint8)[: x.numel()] < level).view(x.shape)
        out: Tensor = _Dropped.apply(x, dropped, 256 / (256 - level))
        return out

    def extra_repr(self) -> str:
        """What is printed of it."""
        return f"p={self.p}"


class _Dropped(torch.autograd.Function):
    """Zero where dropped, scaled elsewhere; one pass in each direction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(dropped)
        ctx.scale = scale
        return (x * scale).masked_fill_(dropped, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (dropped,) = ctx.saved_tensors
        return (gradient * ctx.scale).masked_fill_(dropped, 0), None, None
