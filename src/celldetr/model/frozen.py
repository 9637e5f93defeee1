"""The backbone in training with frozen BatchNorm: its scale goes into the convolution's weights on the way.

A frozen BatchNorm multiplies and adds constants, so ``norm(conv(x)) = conv'(x) + shift`` with ``weight' = weight *
scale``, and autograd carries the gradient from weight' to weight. Neither the normalised map nor its gradient is ever
stored, nor, on CPUs, the map before the activation: oneDNN applies that to each result, and its gradient can be told
from the result. The network's own modules keep their parameters and names; what runs is a copy of the structure around
them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from celldetr.model.borders import ReplicateConv2d
from celldetr.model.device import onednn_runs
from celldetr.model.folding import FUSED, pairs

Pair = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """What a convolution does besides its numbers; pairs are along y and x.

    Attributes:
        stride: of the convolution.
        before, after: zeros around the image.
        dilation: of the kernel.
        groups: of channels.
        activation: ``relu``, ``hardtanh`` (ReLU6) or ``none``.
    """

    stride: Pair
    before: Pair
    after: Pair
    dilation: Pair
    groups: int
    activation: str

    @property
    def even(self) -> bool:
        """Whether the zeros are the same on both sides."""
        return self.before == self.after


class FrozenConvolution(nn.Module):
    """A convolution, the frozen BatchNorm that reads it, and the activation after that."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.source = (convolution, norm)  # in a tuple: they are submodules elsewhere
        self.activation = getattr(norm, "act", nn.Identity())
        known = "none" if isinstance(self.activation, nn.Identity) else None
        self.name = FUSED[type(self.activation)][0] if type(self.activation) in FUSED else known

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        convolution, norm = self.source
        with torch.no_grad():
            scale = torch.rsqrt(cast(Tensor, norm.running_var) + norm.eps)
            scale = scale if norm.weight is None else scale * norm.weight
            shift = -cast(Tensor, norm.running_mean) * scale
            shift = shift if norm.bias is None else shift + norm.bias
        if isinstance(convolution, ReplicateConv2d):  # which has no padding of its own
            x = convolution.pad(x)
        weight = convolution.weight * scale[:, None, None, None]
        bias = shift if convolution.bias is None else convolution.bias * scale + shift
        before, after = _padding(convolution, x)
        stride, dilation = cast(Pair, convolution.stride), cast(Pair, convolution.dilation)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        one_more = all(b - a in (0, 1) for a, b in zip(before, after, strict=True)) and dilation == (1, 1)
        if (
            self.name
            and onednn_runs(x.device, dtype)
            and dtype in (torch.float32, torch.bfloat16)
            and (one_more or before == after)
        ):
            plan = Plan(stride, before, after, dilation, convolution.groups, self.name)
            return cast(Tensor, _Convolution.apply(x.to(dtype), weight.to(dtype), bias.to(dtype), plan))
        if before != after:
            x, before = functional.pad(x, (before[1], after[1], before[0], after[0])), (0, 0)
        y = functional.conv2d(x, weight, bias, stride, before, dilation, convolution.groups)
        return cast(Tensor, self.activation(y))


class _Convolution(torch.autograd.Function):
    """Convolution, bias and activation on a CPU, channels last; the bias may be a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, plan: Plan) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        # oneDNN pads both ends alike; a row and a column of zeros before the kernel do what a zero more after does.
        kernel = weight if plan.even else functional.pad(weight, _extra(plan))
        limits = [0.0, 6.0] if plan.activation == "hardtanh" else []
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, kernel, bias, plan.after, plan.stride, plan.dilation, plan.groups, plan.activation, limits, ""
        )
        ctx.plan = plan
        # Without an activation the result is not needed, and may be changed in place: ResNets add to it.
        ctx.save_for_backward(x, weight, *([] if plan.activation == "none" else [y]))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, *result = ctx.saved_tensors
        plan: Plan = ctx.plan
        grad = grad.contiguous(memory_format=torch.channels_last)
        if plan.activation == "hardtanh":
            grad = torch.ops.aten.hardtanh_backward(grad, result[0], 0.0, 6.0)
        elif plan.activation == "relu":
            grad = torch.ops.aten.threshold_backward(grad, result[0], 0.0)
        of_bias = grad.float().sum((0, 2, 3)).to(grad.dtype) if ctx.needs_input_grad[2] else None
        of_x, of_weight = _gradients(x, weight, grad, plan, (ctx.needs_input_grad[0], ctx.needs_input_grad[1]))
        return of_x, of_weight, of_bias, None


def _gradients(
    x: Tensor, weight: Tensor, grad: Tensor, plan: Plan, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of image and weights."""
    if plan.groups == x.shape[1] == len(weight) and plan.dilation == (1, 1):
        from celldetr.model.depthwise_cpu import depthwise_backward  # Numba: imported at the first use

        return depthwise_backward(x, weight, grad, plan.stride, plan.before, of_input=wanted[0])
    if weight.shape[2:] == (1, 1) and plan.stride == (1, 1) and plan.groups == 1 and plan.after == (0, 0):
        pixels, up = (t.permute(0, 2, 3, 1).reshape(-1, t.shape[1]) for t in (x, grad))
        rows, matrix = x.permute(0, 2, 3, 1).shape, weight[:, :, 0, 0]
        of_x = (up @ matrix).view(rows).permute(0, 3, 1, 2) if wanted[0] else None
        return of_x, (up.t() @ pixels)[:, :, None, None] if wanted[1] else None
    kernel = weight if plan.even else functional.pad(weight, _extra(plan))
    of_x, of_kernel, _ = torch.ops.aten.convolution_backward(
        grad,
        x,
        kernel.contiguous(memory_format=torch.channels_last),
        None,
        plan.stride,
        plan.after,
        plan.dilation,
        False,
        (0, 0),
        plan.groups,
        (*wanted, False),
    )
    if of_kernel is not None:
        of_kernel = of_kernel[:, :, plan.after[0] - plan.before[0] :, plan.after[1] - plan.before[1] :]
    return of_x, of_kernel


def _extra(plan: Plan) -> list[int]:
    """Zeros before the kernel, in the order of ``functional.pad``."""
    return [plan.after[1] - plan.before[1], 0, plan.after[0] - plan.before[0], 0]


def _padding(convolution: nn.Conv2d, x: Tensor) -> tuple[Pair, Pair]:
    """Zeros before and after the image, along y and x; timm's ``Conv2dSame`` pads as TensorFlow does."""
    if not isinstance(convolution, Conv2dSame):
        even = cast(Pair, convolution.padding)
        return even, even
    before, after = [], []
    for axis in (0, 1):
        reach = (convolution.kernel_size[axis] - 1) * convolution.dilation[axis] + 1
        steps = -(-x.shape[2 + axis] // convolution.stride[axis])
        total = max((steps - 1) * convolution.stride[axis] + reach - x.shape[2 + axis], 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return (before[0], before[1]), (after[0], after[1])


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
