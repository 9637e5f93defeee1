"""Multi-scale deformable attention: every query reads a few weighted points of every level of a feature pyramid.

The operation of Deformable DETR (Zhu et al., ICLR 2021), between its linear layers: attention weights and sampling
locations are given, values are read bilinearly. There are two implementations behind one function:

- ``deformable_attention_reference``: plain PyTorch over ``grid_sample``, for every device, and the definition of what
  is right;
- a Numba kernel (``deformable_cpu``), used by itself for CPU tensors, several times faster because it never stores the
  (B, H, D, Q, P) samples of a level.

Both compute in at least float32, whatever autocast made of their inputs. Points are (x, y) in [0, 1] of the level,
pixel centres lie at (i + 0.5) / size and everything outside is zero, which is ``grid_sample`` with
``align_corners=False``. A point whose location is not finite counts as outside: it contributes nothing and receives no
gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Backend = Literal["auto", "reference", "numba"]


def deformable_attention(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Weighted sum of bilinear samples of a feature pyramid, head by head.

    Args:
        value: (B, S, H, D) features of H heads; the S pixels are the levels one after another, each row by row.
        shapes: (h, w) of each of the L levels, the sum of h * w being S.
        locations: (B, Q, H, L, P, 2) points as (x, y), each a fraction of its level; any value is allowed.
        weights: (B, Q, H, L, P) factor of each point, usually a softmax over L * P.
        backend: ``numba`` (CPU only), ``reference``, or ``auto``: Numba for CPU tensors, else the reference.

    Returns:
        (B, Q, H * D), of the dtype of ``value``; differentiable once (Numba) in all three tensors.

    Raises:
        ValueError: shapes or devices that do not fit together, or an unknown backend.
    """
    _check(value, shapes, locations, weights)
    if backend not in ("auto", "reference", "numba"):
        raise ValueError(f"unknown backend {backend!r}: expected 'auto', 'reference' or 'numba'")
    on_cpu = value.device.type == "cpu"
    if backend == "numba" and not on_cpu:
        raise ValueError(f"backend 'numba' needs CPU tensors, got {value.device}; use 'auto' or 'reference'")
    if backend == "reference" or not on_cpu or torch.onnx.is_in_onnx_export():
        return deformable_attention_reference(value, shapes, locations, weights)
    dtype = _compute_dtype(value, locations, weights)
    shape_tensor = torch.tensor([tuple(shape) for shape in shapes], dtype=torch.int64).view(-1, 2)
    out: Tensor = _NumbaAttention.apply(value.to(dtype), shape_tensor, locations.to(dtype), weights.to(dtype))
    return out.flatten(2).to(value.dtype)


def deformable_attention_reference(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """``deformable_attention`` in plain PyTorch, for every device; arguments and result are the same.

    Only one level's samples, (B * H, D, Q, P), exist at a time.
    """
    _check(value, shapes, locations, weights)
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    dtype = _compute_dtype(value, locations, weights)
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
    """``deformable_attention`` with its locations and weights computed on the way, on the CPU.

    Args:
        value, shapes: as there.
        offsets, logits: (B, Q, H, L, P, 2) and (B, Q, H, L, P) as the linear layers return them.
        reference: (B, Q, 2 | 4) points or boxes; see ``DeformableAttention``.
        ratios: (B, L, 2) valid share of each level.
        margin: of constrained boxes; None: unconstrained.
        inside: clamp points to the outermost pixel centres of their level, instead of reading zeros beyond.

    Returns:
        (B, Q, H * D), of the dtype of ``value``; differentiable once in value, offsets and logits.
    """
    out: Tensor = _FusedAttention.apply(value, shapes, offsets, logits, reference, ratios, margin, inside)
    return out.flatten(2)


def _fused(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    ratios: Tensor,
    margin: float | None,
    inside: bool,
) -> Tensor:
    """``deformable_attention_fused`` without gradients; (B, Q, H, D)."""
    from celldetr.model.deformable_cpu import fused

    levels = torch.tensor([tuple(shape) for shape in shapes], dtype=torch.int64).view(-1, 2).numpy()
    places = reference.detach().float().contiguous().numpy(), ratios.detach().float().contiguous().numpy()
    threads = torch.get_num_threads()
    # Pairs of bfloat16 travel as int32, which NumPy knows.
    half = all(x.dtype == torch.bfloat16 for x in (value, offsets, logits)) and value.shape[3] % 2 == 0
    if half:
        pixels, raw = (x.detach().contiguous().view(torch.int32).numpy() for x in (value, offsets))
        weights = logits.detach().contiguous().view(torch.int16).numpy()
    else:
        pixels, raw, weights = (x.detach().float().contiguous().numpy() for x in (value, offsets, logits))
    out = torch.from_numpy(fused(pixels, levels, raw, weights, *places, margin or 0.0, threads, inside=inside))
    return (out.view(torch.bfloat16) if half else out).to(value.dtype)


class _FusedAttention(torch.autograd.Function):
    """``_fused`` as a function PyTorch can differentiate. Locations and weights are made again on the way back."""

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
        ctx.shapes, ctx.margin, ctx.inside = shapes, margin, inside
        ctx.save_for_backward(value, offsets, logits, reference, ratios)
        return _fused(value, shapes, offsets, logits, reference, ratios, margin, inside)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from celldetr.model.deformable_cpu import fused_backward

        levels = torch.tensor([tuple(shape) for shape in ctx.shapes], dtype=torch.int64).view(-1, 2).numpy()
        tensors = ctx.saved_tensors
        pixels, raw, weights, place, ratios, up = (x.detach().float().contiguous().numpy() for x in (*tensors, grad))
        threads = torch.get_num_threads()
        places = raw, weights, place, ratios, ctx.margin or 0.0
        arrays = fused_backward(pixels, levels, *places, up, threads, inside=ctx.inside)
        grads = [torch.from_numpy(a).to(x.dtype) for a, x in zip(arrays, tensors[:3], strict=True)]
        return grads[0], None, grads[1], grads[2], None, None, None, None


class _NumbaAttention(torch.autograd.Function):
    """The Numba kernel as a function PyTorch can differentiate; the result is (B, Q, H, D)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        # Imported at the first use: Numba takes as long to import as all the rest of the model.
        from celldetr.model.deformable_cpu import forward

        value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
        ctx.save_for_backward(value, shapes, locations, weights)
        out = forward(value.numpy(), shapes.numpy(), locations.numpy(), weights.numpy(), torch.get_num_threads())
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        from celldetr.model.deformable_cpu import backward

        value, shapes, locations, weights = (tensor.numpy() for tensor in ctx.saved_tensors)
        grads = backward(value, shapes, locations, weights, grad.contiguous().numpy(), torch.get_num_threads())
        of_value, of_locations, of_weights = (torch.from_numpy(array) for array in grads)
        return of_value, None, of_locations, of_weights


def split_levels(value: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """(B, S, H, D) -> the pixels of each level. In an ONNX graph the lengths of ``torch.split`` would be constants."""
    if torch.onnx.is_in_onnx_export():
        return [value[:, end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
    return torch.split(value, list(sizes), dim=1)


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest dtype among the tensors, at least float32: half precision cannot hold a location to a pixel."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


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
