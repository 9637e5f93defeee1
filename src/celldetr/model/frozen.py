"""The backbone in training with frozen BatchNorm: its scale goes into the convolution's weights on the way.

A frozen BatchNorm multiplies and adds constants, so ``norm(conv(x)) = conv'(x) + shift`` with ``weight' = weight *
scale``, and autograd carries the gradient from weight' to weight. Neither the normalised map nor its gradient is ever
stored. The network's own modules keep their parameters and names; what runs is a copy of the structure around them.
With the gradients of depthwise convolutions by ``depthwise_cpu`` a step of training is 1.7 times as fast in bfloat16,
1.1 times in float32 (benchmarks/kernel_ratios.py).
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from celldetr.model.borders import ReplicateConv2d, padding_of
from celldetr.model.folding import pairs

Pair = tuple[int, int]


class FrozenConvolution(nn.Module):
    """A convolution, the frozen BatchNorm that reads it, and the activation after that."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.source = (convolution, norm)  # in a tuple: they are submodules elsewhere
        self.activation = getattr(norm, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        convolution, norm = self.source
        with torch.no_grad():
            scale = torch.rsqrt(cast(Tensor, norm.running_var) + norm.eps)
            scale = scale if norm.weight is None else scale * norm.weight
            shift = -cast(Tensor, norm.running_mean) * scale
            shift = shift if norm.bias is None else shift + norm.bias
        weight = convolution.weight * scale[:, None, None, None]
        bias = shift if convolution.bias is None else convolution.bias * scale + shift
        padding = cast(Pair, convolution.padding)
        if isinstance(convolution, Conv2dSame | ReplicateConv2d):
            x, padding = padding_of(convolution)(x), (0, 0)
        stride, dilation, groups = cast(Pair, convolution.stride), cast(Pair, convolution.dilation), convolution.groups
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if (
            x.device.type == "cpu"
            and dtype in (torch.float32, torch.bfloat16)
            and groups == x.shape[1] == len(weight)
            and dilation == (1, 1)
        ):
            x = x.to(dtype).contiguous(memory_format=torch.channels_last)
            y = cast(Tensor, _Depthwise.apply(x, weight.to(dtype), bias.to(dtype), stride, padding))
        else:
            y = functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
        return cast(Tensor, self.activation(y))


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution on a CPU, channels last; the bias may be a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.stride, ctx.padding = stride, padding
        ctx.save_for_backward(x, weight)
        return functional.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None, None]:
        from celldetr.model.depthwise_cpu import depthwise_backward  # Numba: imported at the first use

        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_bias = grad.float().sum((0, 2, 3)).to(grad.dtype) if ctx.needs_input_grad[2] else None
        of_x, of_weight = depthwise_backward(x, weight, grad, ctx.stride, ctx.padding, of_input=ctx.needs_input_grad[0])
        return of_x, of_weight, of_bias, None, None


def with_frozen_batchnorm(body: nn.Module) -> nn.Module:
    """The structure of a backbone around the same parameters, each frozen BatchNorm inside its convolution.

    Convolutions and norms that do not come as a pair, and all else with parameters, are the body's own modules.
    """
    found = {norm: conv for norm, conv in pairs(body).items() if _understood(conv)}
    kept = [m for m in body.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d) or not list(m.children())]
    shared = [*kept, *body.parameters(), *body.buffers()]
    made = copy.deepcopy(body, {id(thing): thing for thing in shared})
    names = {module: name for name, module in body.named_modules()}
    for norm, convolution in found.items():
        for old, new in ((convolution, FrozenConvolution(convolution, norm)), (norm, nn.Identity())):
            parent, _, child = names[old].rpartition(".")
            setattr(made.get_submodule(parent), child, new)
    return made


def _understood(convolution: nn.Conv2d) -> bool:
    plain = type(convolution) is nn.Conv2d and not isinstance(convolution.padding, str)
    return plain or isinstance(convolution, Conv2dSame | ReplicateConv2d)
