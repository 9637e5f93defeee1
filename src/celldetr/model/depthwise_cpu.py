"""The backward pass of depthwise convolutions on CPUs: Numba kernels, channels last, float32 and bfloat16.

oneDNN has fast kernels for the forward pass, but its gradients of 5 x 5 kernels are 5 to 60 times slower than these,
and with a stride in bfloat16 it falls back to a loop: a whole step of training is 1.6 times as fast with these in
bfloat16, 1.1 times in float32 (benchmarks/kernel_ratios.py). A pixel's channels lie side by side, so plain loops over
them become SIMD code. Sums are in float32, in a fixed order: the result does not depend on the number of threads.
bfloat16 travels as uint16, which Numba knows: the upper half of a float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from celldetr.model.kernels import run_in_pieces, specialise

_intrinsic: Any = intrinsic


def depthwise_backward(
    x: Tensor, weight: Tensor, grad: Tensor, stride: tuple[int, int], before: tuple[int, int], *, of_input: bool = True
) -> tuple[Tensor | None, Tensor]:
    """Gradients of ``conv2d(pad(x), weight, stride=stride, groups=C)``.

    Args:
        x: (B, C, H, W) float32 or bfloat16, like all tensors here channels last on a CPU.
        weight: (C, 1, kh, kw), of the dtype of ``x``.
        grad: (B, C, H', W') of the result, of the dtype of ``x``.
        stride: along y and x.
        before: zeros above and to the left of the image; those after it follow from the shapes.
        of_input: whether the gradient of ``x`` is wanted.

    Returns:
        gradients of ``x`` (or None) and ``weight``, of their dtypes.
    """
    image, up = _pixels(x), _pixels(grad)
    kernel = np.ascontiguousarray(weight.detach().float()[:, 0].permute(1, 2, 0).numpy())  # (kh, kw, C)
    threads, dtype = torch.get_num_threads(), image.dtype.name
    steps = np.array([*stride, *before], dtype=np.int64)
    batch, height = image.shape[:2]
    parts = np.zeros((batch, *kernel.shape), dtype=np.float32)
    run = _compiled(_weight_kernel, dtype)
    run_in_pieces(lambda start, stop: run(image, up, parts, steps, start, stop), batch * len(kernel), threads)
    of_weight = torch.from_numpy(parts.sum(0)).permute(2, 0, 1)[:, None].to(weight.dtype)
    if not of_input:
        return None, of_weight
    result = torch.empty_like(x)
    out = _pixels(result)
    spread = _compiled(_input_kernel, dtype)
    run_in_pieces(lambda start, stop: spread(up, kernel, out, steps, start, stop), batch * height, threads)
    return result, of_weight


def _pixels(x: Tensor) -> NDArray[Any]:
    """(B, C, H, W) channels last -> the same memory as (B, H, W, C) float32, or uint16 for bfloat16."""
    last = x.detach().permute(0, 2, 3, 1)
    return (last.view(torch.uint16) if x.dtype == torch.bfloat16 else last).numpy()


@cache
def _compiled(kernel: FunctionType, dtype: str) -> Callable[..., None]:
    return specialise(kernel, dtype)


def _weight_kernel(x, grad, out, steps, start, stop):  # type: ignore[no-untyped-def]
    """Add to out[b, ky] (B, kh, kw, C) for start <= b * kh + ky < stop."""
    height, width, channels = x.shape[1:]
    rows, columns = grad.shape[1:3]
    for item in range(start, stop):
        b, ky = item // out.shape[1], item % out.shape[1]
        for row in range(rows):
            y = row * steps[0] + ky - steps[2]
            if y < 0 or y >= height:
                continue
            for column in range(columns):
                up = grad[b, row, column]
                for kx in range(out.shape[2]):
                    across = column * steps[1] + kx - steps[3]
                    if across < 0 or across >= width:
                        continue
                    total, pixel = out[b, ky, kx], x[b, y, across]
                    for c in range(channels):
                        total[c] += _widen(up[c]) * _widen(pixel[c])


def _input_kernel(grad, weight, out, steps, start, stop):  # type: ignore[no-untyped-def]
    """Write out[b, y] (B, H, W, C) for start <= b * H + y < stop."""
    height, width, channels = out.shape[1:]
    rows, columns = grad.shape[1:3]
    total = np.empty((width, channels), np.float32)
    for item in range(start, stop):
        b, y = item // height, item % height
        total[:, :] = 0
        for ky in range(weight.shape[0]):
            place = y + steps[2] - ky
            row = place // steps[0]
            if place < 0 or place % steps[0] or row >= rows:
                continue
            for column in range(columns):
                up = grad[b, row, column]
                for kx in range(weight.shape[1]):
                    across = column * steps[1] + kx - steps[3]
                    if across < 0 or across >= width:
                        continue
                    pixel, factor = total[across], weight[ky, kx]
                    for c in range(channels):
                        pixel[c] += _widen(up[c]) * factor[c]
        for across in range(width):
            target, pixel = out[b, y, across], total[across]
            for c in range(channels):
                target[c] = _narrow(pixel[c], out)


@_intrinsic
def _widen(_typing, x):  # type: ignore[no-untyped-def]
    """A float32 as it is, a bfloat16 in a uint16 as the float32 it stands for."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        if x != types.uint16:
            return arguments[0]
        bits = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(bits, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(x), generate


@_intrinsic
def _narrow(_typing, x, array):  # type: ignore[no-untyped-def]
    """A float32 as an element of the array: itself, or rounded to bfloat16, ties to even."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        if array.dtype != types.uint16:
            return arguments[0]
        word = ir.IntType(32)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(word, 0x7FFF)))
        return builder.trunc(builder.lshr(rounded, ir.Constant(word, 16)), ir.IntType(16))

    return array.dtype(types.float32, array), generate
