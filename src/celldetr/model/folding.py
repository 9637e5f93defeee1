"""Convolutions for inference: each BatchNorm of the backbone folded into the convolution before it, and activations
done by the same oneDNN call on CPUs, in the outline head too.

BatchNorm at inference is one multiplication and one addition a channel, which the convolution's weights and bias can
absorb: a whole tile is 1.1 to 1.15 times as fast, 1.03 to 1.06 of it by the activation. Which convolution feeds which
BatchNorm is observed on a small image rather than read off names, so it works for any network; what does not fit the
pattern stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from celldetr.model.borders import ReplicateConv2d, padding_of
from celldetr.model.detection import SelectedQueries
from celldetr.model.device import onednn_runs

if TYPE_CHECKING:
    from celldetr.model.backbone import Backbone
    from celldetr.model.celldetr import CellDETR

# Activations that oneDNN applies to a result before it is stored, and their parameters.
FUSED = {nn.ReLU: ("relu", []), nn.ReLU6: ("hardtanh", [0.0, 6.0])}


class FoldedConvolution(nn.Module):
    """A convolution with its BatchNorm inside, and the activation that follows.

    Args:
        convolution: with the folded weights; timm's may pad its input itself ("same" padding).
        activation: of the BatchNorm that was folded, or that follows; or ``nn.Identity``.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.convolution, self.activation = convolution, activation
        name, parameters = FUSED.get(type(activation), ("none", []))
        self.name, self.parameters_of_activation = name, parameters
        self.fusible = type(convolution) is nn.Conv2d and not isinstance(convolution.padding, str)
        self.fusible &= name != "none" or isinstance(activation, nn.Identity)
        self._packed: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if not (self.fusible and onednn_runs(x.device, dtype)):
            return cast(Tensor, self.activation(self.convolution(x)))
        if dtype not in self._packed:
            layout = torch.channels_last
            weight = self.convolution.weight.detach().to(dtype).contiguous(memory_format=layout)
            self._packed[dtype] = weight, cast(Tensor, self.convolution.bias).detach().to(dtype)
        weight, bias = self._packed[dtype]
        c = self.convolution
        return cast(
            Tensor,
            torch.ops.mkldnn._convolution_pointwise(
                x.to(dtype),
                weight,
                bias,
                list(cast(tuple[int, ...], c.padding)),
                list(c.stride),
                list(c.dilation),
                c.groups,
                self.name,
                self.parameters_of_activation,
                "",
            ),
        )


class PaddedConvolution(nn.Module):
    """A convolution without padding of its own, on an image that is padded first."""

    def __init__(self, pad: Callable[[Tensor], Tensor], folded: FoldedConvolution) -> None:
        super().__init__()
        self.pad, self.folded = pad, folded

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return cast(Tensor, self.folded(self.pad(x)))


class SameConvolution(PaddedConvolution):
    """A convolution that pads as TensorFlow does: for ceil(size / stride) results, an odd zero at the end.

    A row and a column of zeros before the weights take up the odd zero, so that an image whose size is a multiple of
    the stride need not be copied into a larger one first: a whole tile is 1.01 to 1.05 times as fast.
    """

    def __init__(self, pad: Callable[[Tensor], Tensor], folded: FoldedConvolution) -> None:
        super().__init__(pad, folded)
        c = folded.convolution
        self.stride = c.stride
        totals = [max(kernel - stride, 0) for kernel, stride in zip(c.kernel_size, c.stride, strict=True)]
        self.whole: FoldedConvolution | None = None
        if c.dilation == (1, 1) and all(total % 2 for total in totals):
            whole = copy.deepcopy(c)
            whole.weight = nn.Parameter(functional.pad(c.weight.detach(), (1, 0, 1, 0)))
            whole.kernel_size = (c.kernel_size[0] + 1, c.kernel_size[1] + 1)
            whole.padding = (totals[0] // 2 + 1, totals[1] // 2 + 1)
            self.whole = FoldedConvolution(whole.to(memory_format=torch.channels_last), folded.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        if self.whole is not None and x.shape[2] % self.stride[0] == 0 and x.shape[3] % self.stride[1] == 0:
            return cast(Tensor, self.whole(x))
        return super().forward(x)


def for_inference(network: CellDETR) -> CellDETR:
    """A network that shares all weights with ``network`` but the backbone's; convolutions are folded (``folding``).

    Queries selected by place see near ones only, which makes time grow with a tile's area, not with its square; which
    tokens score too little to become queries is up to who knows the threshold (``TilePredictor``).
    """
    shared, detector = copy.copy(network), copy.copy(network.detector)
    detector.near = network.config.queries == "selected"
    if isinstance(detector.queries, SelectedQueries):
        queries = copy.copy(detector.queries)
        queries.least_score = 0.0
        detector._modules = {**detector._modules, "queries": queries}
    shared._modules = {**network._modules, "backbone": fold_batchnorm(network.backbone), "detector": detector}
    if network.outliner is not None:
        shared.outliner = copy.copy(network.outliner)
        shared.outliner._modules = {
            **network.outliner._modules,
            "pixels": fold_activations(network.outliner.pixels),
        }
    return shared


@torch.no_grad()
def fold_batchnorm(backbone: Backbone) -> Backbone:
    """A copy of a backbone for inference only, equal but for rounding; the original stays as it is."""
    folded = copy.deepcopy(backbone).eval()
    for norm, convolution in pairs(folded.body).items():
        _replace(folded, norm, convolution)
    return folded


def fold_activations(layers: nn.Sequential) -> nn.Sequential:
    """The same layers, with the same weights, each activation done with the convolution before it."""
    folded: list[nn.Module] = []
    for layer in layers:
        if type(layer) in FUSED and folded and isinstance(folded[-1], nn.Conv2d):
            folded.append(FoldedConvolution(cast(nn.Conv2d, folded.pop()), layer))
        else:
            folded.append(layer)
    return nn.Sequential(*folded)


@torch.no_grad()
def pairs(body: nn.Module) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Each BatchNorm that reads a convolution's result and nothing else, and that convolution, used once each."""
    made: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # so that no address is used twice
    fed: dict[nn.BatchNorm2d, list[nn.Conv2d | None]] = {}
    runs: dict[nn.Module, int] = {}

    def after(module: nn.Module, inputs: tuple[Any, ...], result: Tensor) -> None:
        runs[module] = runs.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            made[id(result)] = module
            kept.append(result)
        elif isinstance(module, nn.BatchNorm2d):
            fed.setdefault(module, []).append(made.get(id(inputs[0])))

    hooks = [m.register_forward_hook(after) for m in body.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    modes = {module: module.training for module in body.modules()}
    try:
        weight = next(body.parameters())
        body.eval()(torch.zeros(1, 3, 64, 64, dtype=weight.dtype, device=weight.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return {
        norm: sources[0] for norm, sources in fed.items() if len(sources) == 1 and sources[0] and runs[sources[0]] == 1
    }


def _replace(backbone: Backbone, norm: nn.BatchNorm2d, convolution: nn.Conv2d) -> None:
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        cast(Tensor, norm.running_mean),
        cast(Tensor, norm.running_var),
        norm.eps,
        norm.weight,
        norm.bias,
    )
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        convolution.dilation,  # type: ignore[arg-type]
        convolution.groups,
        device=weight.device,
        dtype=weight.dtype,
    ).to(memory_format=torch.channels_last)
    plain.weight.copy_(weight)
    cast(Tensor, plain.bias).copy_(bias)
    activation = getattr(norm, "act", nn.Identity())  # timm's BatchNormAct2d
    folded = FoldedConvolution(plain, activation)
    new: nn.Module = folded
    if isinstance(convolution, Conv2dSame):
        new = SameConvolution(padding_of(convolution), folded)
    elif isinstance(convolution, ReplicateConv2d):
        new = PaddedConvolution(padding_of(convolution), folded)
    elif type(convolution) is not nn.Conv2d:
        return
    names = {module: name for name, module in backbone.named_modules()}
    for old, replacement in ((convolution, new), (norm, nn.Identity())):
        parent, _, child = names[old].rpartition(".")
        setattr(backbone.get_submodule(parent), child, replacement)
