"""Multi-scale deformable attention: every query reads a few weighted points of every level of a feature pyramid.

The operation of Deformable DETR (Zhu et al., ICLR 2021), between its linear layers. ``sampling_points`` and
``deformable_attention`` are plain PyTorch over ``grid_sample``, for every device, and the definition of what is right.
``deformable_attention_fused`` does both in one Numba kernel for CPU tensors (``deformable_cpu``), which never stores
the (B, H, D, Q, P) samples of a level: 2.1 to 2.8 times as fast on a whole tile, 1.5 times on a step of training
(benchmarks/kernel_ratios.py).

Points are (x, y) in [0, 1] of the level, pixel centres lie at (i + 0.5) / size and everything outside is zero, which is
``grid_sample`` with ``align_corners=False``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from celldetr.model.memory import as_tensor, clamp_inside


def sampling_points(
    offsets: Tensor,
    logits: Tensor,
    shapes: Sequence[tuple[int, int]],
    reference: Tensor,
    ratios: Tensor,
    margin: float | None,
    *,
    inside: bool,
) -> tuple[Tensor, Tensor]:
    """Where queries sample, and how much each point counts; see ``DeformableAttention``.

    Args:
        offsets: (B, Q, H, L, P, 2), raw.
        logits: (B, Q, H, L, P), raw.
        shapes: (h, w) of each level.
        reference: (B, Q, 2) points or (B, Q, 4) cxcywh boxes, fractions of each image's valid region.
        ratios: (B, L, 2) valid share of each level.
        margin: of constrained boxes; None: unconstrained.
        inside: clamp points to the outermost pixel centres of their level.

    Returns:
        (B, Q, H, L, P, 2) as (x, y) fractions of each level's map (padding included), and (B, Q, H, L, P).
    """
    centre = reference[:, :, None, None, None, :2]
    ratios = ratios[:, None, None, :, None, :]
    cells = as_tensor([(w, h) for h, w in shapes], like=offsets)[None, None, None, :, None, :]
    if reference.shape[-1] == 2:
        locations = centre * ratios + offsets / cells
    else:
        half = reference[:, :, None, None, None, 2:] / 2
        reach = offsets / offsets.shape[4] if margin is None else margin * torch.tanh(offsets)
        locations = (centre + reach * half) * ratios
    weights = logits.flatten(3).softmax(-1).view(logits.shape)
    return clamp_inside(locations, cells) if inside else locations, weights


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples of a feature pyramid, head by head.

    Computes in at least float32, whatever autocast made of the inputs. A point whose location is not finite counts as
    outside: it contributes nothing and receives no gradient.

    Args:
        value: (B, S, H, D) features of H heads; the S pixels are the levels one after another, each row by row.
        shapes: (h, w) of each of the L levels, the sum of h * w being S.
        locations: (B, Q, H, L, P, 2) points as (x, y), each a fraction of its level; any value is allowed.
        weights: (B, Q, H, L, P) factor of each point, usually a softmax over L * P.

    Returns:
        (B, Q, H * D), of the dtype of ``value``.

    Raises:
        ValueError: shapes or devices that do not fit together.
    """
    _check(value, shapes, locations, weights)
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    dtype = torch.float32  # half precision cannot hold a location to a pixel
    for tensor in (value, locations, weights):
        dtype = torch.promote_types(dtype, tensor.dtype)
    out = value.new_zeros((batch * heads, channels, queries), dtype=dtype)
    if 0 in (out.numel(), value.numel(), weights.numel()):  # grid_sample refuses what is empty
        nothing = sum(tensor.flatten()[:0].sum() for tensor in (value, locations, weights))  # keeps gradients connected
        return (out.view(batch, queries, heads * channels) + nothing).to(value.dtype)
    # -1 and 2 are outside a level of any size, also of one pixel; the clamp keeps huge points from overflowing an int.
    inside = locations.to(dtype).nan_to_num(nan=-1.0).clamp(-1, 2)
    levels = split_levels(value.to(dtype), [height * width for height, width in shapes])
    for level, (height, width) in enumerate(shapes):
        if height * width == 0:
            continue
        image = levels[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = (2 * inside[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)  # (B * H, Q, P, 2)
        samples = functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        factors = weights[:, :, :, level].to(dtype).transpose(1, 2).flatten(0, 1).unsqueeze(1)  # (B * H, 1, Q, P)
        out = out + (samples * factors).sum(-1)
    return out.view(batch, heads * channels, queries).transpose(1, 2).to(value.dtype)


def deformable_attention_fused(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    ratios: Tensor,
    margin: float | None,
    *,
    inside: bool = False,
) -> Tensor:
    """``sampling_points`` and ``deformable_attention`` in one kernel, on the CPU.

    Returns:
        (B, Q, H * D), of the dtype of ``value``; differentiable once in value, offsets and logits.
    """
    out: Tensor = _FusedAttention.apply(value, shapes, offsets, logits, reference, ratios, margin, inside)
    return out.flatten(2)


class _FusedAttention(torch.autograd.Function):
    """The kernel as a function PyTorch can differentiate; the result is (B, Q, H, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        shapes: Sequence[tuple[int, int]],
        offsets: Tensor,
        logits: Tensor,
        reference: Tensor,
        ratios: Tensor,
        margin: float | None,
        inside: bool,
    ) -> Tensor:
        # Imported at the first use: Numba takes as long to import as all the rest of the model.
        from celldetr.model.deformable_cpu import fused

        ctx.shapes, ctx.margin, ctx.inside = shapes, margin, inside
        ctx.save_for_backward(value, offsets, logits, reference, ratios)
        places = reference.detach().float().contiguous().numpy(), ratios.detach().float().contiguous().numpy()
        # Pairs of bfloat16 travel as int32, which NumPy knows: 1.04 to 1.09 times as fast on a tile as float32 copies.
        half = all(x.dtype == torch.bfloat16 for x in (value, offsets, logits)) and value.shape[3] % 2 == 0
        if half:
            pixels, raw = (x.detach().contiguous().view(torch.int32).numpy() for x in (value, offsets))
            weights = logits.detach().contiguous().view(torch.int16).numpy()
        else:
            pixels, raw, weights = (x.detach().float().contiguous().numpy() for x in (value, offsets, logits))
        arrays = pixels, _levels(shapes), raw, weights, *places
        out = torch.from_numpy(fused(*arrays, margin or 0.0, torch.get_num_threads(), inside=inside))
        return (out.view(torch.bfloat16) if half else out).to(value.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from celldetr.model.deformable_cpu import backward

        tensors = ctx.saved_tensors
        pixels, raw, weights, place, ratios, up = (x.detach().float().contiguous().numpy() for x in (*tensors, grad))
        fixed = place, ratios, ctx.margin or 0.0
        threads = torch.get_num_threads()
        arrays = backward(pixels, _levels(ctx.shapes), raw, weights, *fixed, up, threads, inside=ctx.inside)
        grads = [torch.from_numpy(array).to(x.dtype) for array, x in zip(arrays, tensors[:3], strict=True)]
        return grads[0], None, grads[1], grads[2], None, None, None, None


def _levels(shapes: Sequence[tuple[int, int]]) -> Any:
    return torch.tensor([tuple(shape) for shape in shapes], dtype=torch.int64).view(-1, 2).numpy()


def split_levels(value: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """(B, S, H, D) -> the pixels of each level. In an ONNX graph the lengths of ``torch.split`` would be constants."""
    if torch.onnx.is_in_onnx_export():
        return [value[:, end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
    return torch.split(value, list(sizes), dim=1)


def _check(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    """Raise ValueError, naming the shapes, unless the arguments fit together."""
    given = (
        f"value {tuple(value.shape)}, shapes {[tuple(shape) for shape in shapes]}, "
        f"locations {tuple(locations.shape)}, weights {tuple(weights.shape)}"
    )
    if value.dim() != 4 or locations.dim() != 6 or weights.dim() != 5:
        raise ValueError(
            f"expected value (B, S, H, D), locations (B, Q, H, L, P, 2), weights (B, Q, H, L, P); got {given}"
        )
    if any(len(shape) != 2 or min(shape) < 0 for shape in shapes):
        raise ValueError(f"expected a (height, width) for each level; got {given}")
    batch, pixels, heads, _ = value.shape
    if pixels != sum(height * width for height, width in shapes):
        raise ValueError(f"the levels of shapes must add up to the S pixels of value (B, S, H, D); got {given}")
    expected = (batch, locations.shape[1], heads, len(shapes), locations.shape[4])
    if tuple(locations.shape) != (*expected, 2) or tuple(weights.shape) != expected:
        raise ValueError(f"locations (B, Q, H, L, P, 2) and weights (B, Q, H, L, P) do not fit value; got {given}")
    if not value.device == locations.device == weights.device:
        devices = f"{value.device}, {locations.device} and {weights.device}"
        raise ValueError(f"value, locations and weights must be on one device, got {devices}")
    if not all(tensor.is_floating_point() for tensor in (value, locations, weights)):
        raise ValueError(f"expected floating point, got {value.dtype}, {locations.dtype} and {weights.dtype}")
