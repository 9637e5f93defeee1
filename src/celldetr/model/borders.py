"""What convolutions read beyond the border of an image: its nearest pixel, instead of zeros.

Zeros mark the border. A deep network carries the mark far into the image, where it tells a cell's embedding in which
part of its tile the cell lies (docs/concepts/method.md, "Place").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import get_same_padding, pad_same
from torch import Tensor, nn
from torch.nn import functional


class ReplicateConv2d(nn.Conv2d):
    """A convolution that reads the nearest pixel beyond the image, where timm's reads zeros.

    Args:
        source: the convolution that it takes the place of, with its weights; timm's ``Conv2dSame`` pads as TensorFlow
            does, for ceil(size / stride) results, an odd pixel at the end.
    """

    def __init__(self, source: nn.Conv2d) -> None:
        super().__init__(
            source.in_channels,
            source.out_channels,
            source.kernel_size,  # type: ignore[arg-type]
            source.stride,  # type: ignore[arg-type]
            0,
            source.dilation,  # type: ignore[arg-type]
            source.groups,
            bias=source.bias is not None,
        )
        self.weight, self.bias = source.weight, source.bias
        self.same = type(source) is not nn.Conv2d
        self.fixed = cast(tuple[int, int], source.padding)

    def pad(self, x: Tensor) -> Tensor:
        """(B, C, H, W) with its edges repeated as far as the kernel reaches."""
        pads: list[int] = []
        for axis in (1, 0):  # functional.pad begins with the last
            total = 2 * self.fixed[axis]
            if self.same:
                steps = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
                total = get_same_padding(x.shape[2 + axis], *steps)
            pads += [total // 2, total - total // 2]
        return functional.pad(x, pads, mode="replicate")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return super().forward(self.pad(x))


def padding_of(convolution: Conv2dSame | ReplicateConv2d) -> Callable[[Tensor], Tensor]:
    """What such a convolution does to an image before it is one without padding."""
    if isinstance(convolution, ReplicateConv2d):
        return convolution.pad
    kernel_size, stride, dilation = (
        cast(Any, c) for c in (convolution.kernel_size, convolution.stride, convolution.dilation)
    )
    return lambda x: pad_same(x, kernel_size, stride, dilation)


def replicate_borders(body: nn.Module) -> None:
    """Give every convolution of a network that pads with zeros the image's own edge instead, in place."""
    for name, module in list(body.named_modules()):
        padded = isinstance(module, Conv2dSame) or (
            type(module) is nn.Conv2d and module.padding not in ((0, 0), "valid")
        )
        if padded and not isinstance(cast(nn.Conv2d, module).padding, str):
            parent, _, child = name.rpartition(".")
            setattr(body.get_submodule(parent), child, ReplicateConv2d(cast(nn.Conv2d, module)))
