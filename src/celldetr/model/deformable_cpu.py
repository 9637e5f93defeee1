"""Multi-scale deformable attention on CPU: runs the Numba kernels; no compiler is needed on the machine.

Work is cut so that no two threads write the same memory: by queries forward, by groups of heads backward. The order of
every sum is fixed, so the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.model.deformable_kernels import backward_kernel, finish_kernel, fused_kernel, prepare_kernel
from celldetr.model.kernels import run_in_pieces, specialise

# Fewer multiplications than this are done before a second thread has woken up.
_WORTH_A_THREAD = 100_000


def fused(
    value: NDArray[Any],
    shapes: NDArray[np.int64],
    offsets: NDArray[Any],
    logits: NDArray[Any],
    reference: NDArray[np.float32],
    ratios: NDArray[np.float32],
    margin: float,
    threads: int,
    *,
    inside: bool = False,
) -> NDArray[Any]:
    """Weighted sums of bilinear samples, see ``deformable_attention_fused``.

    All arrays are C-contiguous and float32. Or ``value``, ``offsets`` and the result are bfloat16, two in an int32,
    their last axes half as long, and ``logits`` is bfloat16 in an int16.

    Args:
        value: (B, S, H, D).
        shapes: (L, 2) height and width of each level.
        offsets: (B, Q, H, L, P, 2) raw.
        logits: (B, Q, H, L, P); their softmax over L and P is the weight.
        reference: (B, Q, 2) points or (B, Q, 4) cxcywh boxes, fractions of each image's valid region.
        ratios: (B, L, 2) share of each level's map that is valid.
        margin: above 0, offsets go through tanh and reach this many times the box's half side; 0: stock.
        threads: how many may work at once.
        inside: clamp points to the outermost pixel centres of their level, instead of reading zeros beyond.

    Returns:
        (B, Q, H, D).

    Raises:
        ValueError: a level without pixels; a corner outside a level reads the nearest pixel of it, times 0.
    """
    if (shapes < 1).any():
        raise ValueError(f"every level needs at least one pixel, got shapes {shapes.tolist()}")
    batch, queries, heads = logits.shape[:3]
    out = np.empty((batch, queries, heads, value.shape[3]), value.dtype)
    if out.size:
        arrays = (value, shapes, offsets, logits, reference, ratios, np.float32(margin), np.float32(inside), out)
        _run(fused_kernel, arrays, batch * queries, _useful_threads(value, logits, threads))
    return out


def backward(
    value: NDArray[np.float32],
    shapes: NDArray[np.int64],
    offsets: NDArray[np.float32],
    logits: NDArray[np.float32],
    reference: NDArray[np.float32],
    ratios: NDArray[np.float32],
    margin: float,
    grad: NDArray[np.float32],
    threads: int,
    *,
    inside: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Gradients of value, offsets and logits, given ``grad`` (B, Q, H, D) of the result of ``fused``.

    Locations and weights are made again rather than kept.
    """
    if not grad.size:
        return np.zeros_like(value), np.zeros_like(offsets), np.zeros_like(logits)
    queries, useful = logits.shape[0] * logits.shape[1], _useful_threads(value, logits, threads)
    fixed = (shapes, reference, ratios, np.float32(margin), np.float32(inside))
    locations, weights = np.empty_like(offsets), np.empty_like(logits)
    _run(prepare_kernel, (offsets, logits, *fixed, locations, weights), queries, useful)
    of_value, of_locations, of_weights = point_gradients(value, shapes, locations, weights, grad, threads)
    _run(finish_kernel, (offsets, weights, *fixed, of_locations, of_weights), queries, useful)
    return of_value, of_locations, of_weights


def point_gradients(
    value: NDArray[np.float32],
    shapes: NDArray[np.int64],
    locations: NDArray[np.float32],
    weights: NDArray[np.float32],
    grad: NDArray[np.float32],
    threads: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Gradients of value, locations (B, Q, H, L, P, 2) and weights (B, Q, H, L, P); the rest as of ``backward``."""
    grads = np.zeros_like(value), np.zeros_like(locations), np.zeros_like(weights)
    if grad.size:
        threads = _useful_threads(value, weights, threads)
        heads = value.shape[2]
        group = _heads_per_group(value.shape[0], heads, threads)
        arrays = (value, shapes, locations, weights, grad, *grads)
        _run(backward_kernel, (*arrays, group), value.shape[0] * (heads // group), threads)
    return grads


def _useful_threads(value: NDArray[Any], weights: NDArray[Any], threads: int) -> int:
    return max(1, min(threads, weights.size * value.shape[3] // _WORTH_A_THREAD))


def _heads_per_group(batch: int, heads: int, threads: int) -> int:
    """The most heads a thread can take together, which lie side by side in memory, with equal work for all threads."""
    groups = (group for group in range(heads, 0, -1) if heads % group == 0)
    return next((group for group in groups if batch * (heads // group) % threads == 0), 1)


def _run(kernel: Callable[..., None], arguments: tuple[Any, ...], items: int, threads: int) -> None:
    """Cover [0, items) with calls of the kernel compiled for the D and the dtype of the first argument."""
    value = arguments[0]
    compiled = _specialised(kernel, value.shape[3], value.dtype.name)
    arguments = ((0,) * value.shape[3], *arguments)
    compiled(*arguments, 0, 0)  # now, before there are threads
    run_in_pieces(lambda start, stop: compiled(*arguments, start, stop), items, threads)


@cache
def _specialised(kernel: FunctionType, channels: int, dtype: str) -> Callable[..., None]:
    """The kernel compiled for one D and dtype."""
    return specialise(kernel, f"{channels}_{dtype}")
