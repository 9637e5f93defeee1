"""Multi-scale deformable attention on CPU: a Numba kernel, forward and backward, that needs no compiler on the machine.

What matters:

- No sample is stored. Each point's four corners are read and added (forward), or dotted and scattered (backward).
- Work is cut so that no two threads ever write the same memory: by queries forward, by (image, head) backward. The
  order of every sum is therefore fixed and the result does not depend on the number of threads.
- The kernels release the GIL and run from a small thread pool of ours. Numba's own ``prange`` is not used: its
  threading layer must not be entered from several Python threads and competes with PyTorch's OpenMP pool.
- A NaN must never become an index: ``fastmath`` leaves out ``nnan`` and ``ninf``, so that the range test, which is
  false for NaN and infinity, stays and comes before the cast to int.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}
# Fewer samples than this (points x channels) are done before a second thread has woken up.
_WORTH_A_THREAD = 100_000


def forward(
    value: NDArray[Any], shapes: NDArray[np.int64], locations: NDArray[Any], weights: NDArray[Any], threads: int
) -> NDArray[Any]:
    """Weighted sums of bilinear samples.

    Args:
        value: (B, S, H, D), like all arrays here C-contiguous and of one dtype, float32 or float64.
        shapes: (L, 2) height and width of each level.
        locations: (B, Q, H, L, P, 2) as (x, y) fractions of a level.
        weights: (B, Q, H, L, P).
        threads: how many threads may work at once.

    Returns:
        (B, Q, H, D).
    """
    batch, queries, heads = locations.shape[:3]
    out = np.zeros((batch, queries, heads, value.shape[3]), value.dtype)
    if weights.size and out.size:
        arrays = (value, shapes, locations, weights, out)
        _run(_forward_kernel, arrays, batch * queries, _useful_threads(weights.size * value.shape[3], threads))
    return out


def backward(
    value: NDArray[Any],
    shapes: NDArray[np.int64],
    locations: NDArray[Any],
    weights: NDArray[Any],
    grad: NDArray[Any],
    threads: int,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Gradients of value, locations and weights, given ``grad`` (B, Q, H, D) of the result of ``forward``."""
    grads = np.zeros_like(value), np.zeros_like(locations), np.zeros_like(weights)
    if weights.size and grad.size:
        arrays = (value, shapes, locations, weights, grad, *grads)
        items = value.shape[0] * value.shape[2]
        _run(_backward_kernel, arrays, items, _useful_threads(weights.size * value.shape[3], threads))
    return grads


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile at the first call, kept on disk where that is possible."""
    options: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy", "boundscheck": False}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no directory to write the cache to: compile in each process instead
        return njit(**options)(function)


@_compiled
def _forward_kernel(value, shapes, locations, weights, out, start, stop):  # type: ignore[no-untyped-def]
    """Write out[b, q] for the queries start <= b * Q + q < stop."""
    real = value.dtype.type
    heads, channels = value.shape[2:]
    queries, points = locations.shape[1], locations.shape[4]
    for item in range(start, stop):
        b, q = item // queries, item % queries
        for h in range(heads):
            total = out[b, q, h]
            first = 0
            for level in range(len(shapes)):
                height, width = shapes[level]
                for p in range(points):
                    x = locations[b, q, h, level, p, 0] * width - real(0.5)
                    y = locations[b, q, h, level, p, 1] * height - real(0.5)
                    if not (x >= -1 and x < width and y >= -1 and y < height):
                        continue
                    x0, y0 = int(np.floor(x)), int(np.floor(y))
                    right, lower = x - real(x0), y - real(y0)
                    for i in range(2):
                        if y0 + i < 0 or y0 + i >= height:
                            continue
                        factor = weights[b, q, h, level, p] * (lower if i else real(1) - lower)
                        for j in range(2):
                            if x0 + j < 0 or x0 + j >= width:
                                continue
                            corner = value[b, first + (y0 + i) * width + x0 + j, h]
                            share = factor * (right if j else real(1) - right)
                            for c in range(channels):
                                total[c] += share * corner[c]
                first += height * width


@_compiled
def _backward_kernel(  # type: ignore[no-untyped-def]
    value, shapes, locations, weights, grad, grad_value, grad_locations, grad_weights, start, stop
):
    """Write all gradients of the heads start <= b * H + h < stop."""
    real = value.dtype.type
    heads, channels = value.shape[2:]
    queries, points = locations.shape[1], locations.shape[4]
    for item in range(start, stop):
        b, h = item // heads, item % heads
        for q in range(queries):
            upstream = grad[b, q, h]
            first = 0
            for level in range(len(shapes)):
                height, width = shapes[level]
                for p in range(points):
                    x = locations[b, q, h, level, p, 0] * width - real(0.5)
                    y = locations[b, q, h, level, p, 1] * height - real(0.5)
                    if not (x >= -1 and x < width and y >= -1 and y < height):
                        continue
                    x0, y0 = int(np.floor(x)), int(np.floor(y))
                    right, lower = x - real(x0), y - real(y0)
                    weight = weights[b, q, h, level, p]
                    sample = along_x = along_y = real(0)
                    for i in range(2):
                        if y0 + i < 0 or y0 + i >= height:
                            continue
                        by_y = lower if i else real(1) - lower
                        for j in range(2):
                            if x0 + j < 0 or x0 + j >= width:
                                continue
                            by_x = right if j else real(1) - right
                            pixel = first + (y0 + i) * width + x0 + j
                            corner, scattered = value[b, pixel, h], grad_value[b, pixel, h]
                            dot = real(0)
                            for c in range(channels):
                                dot += upstream[c] * corner[c]
                            share = weight * by_y * by_x
                            for c in range(channels):
                                scattered[c] += share * upstream[c]
                            sample += by_y * by_x * dot
                            along_x += by_y * dot if j else -by_y * dot
                            along_y += by_x * dot if i else -by_x * dot
                    grad_weights[b, q, h, level, p] = sample
                    grad_locations[b, q, h, level, p, 0] = weight * width * along_x
                    grad_locations[b, q, h, level, p, 1] = weight * height * along_y
                first += height * width


_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _forget_pool() -> None:
    """Start anew in a forked process (a DataLoader's worker): the threads of its parent do not exist there."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _helpers() -> ThreadPoolExecutor:
    """The pool, whose threads are started only as they are needed."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="deformable-attention")
        return _pool


def _useful_threads(samples: int, threads: int) -> int:
    return max(1, min(threads, samples // _WORTH_A_THREAD))


def _run(kernel: Callable[..., None], arrays: tuple[NDArray[Any], ...], items: int, threads: int) -> None:
    """Call ``kernel(*arrays, start, stop)`` until [0, items) is covered, from this thread and ``threads - 1`` others.

    Each thread takes the next piece when it is done with one, so a busy core delays the result little. The caller works
    too, and helpers never wait for anything, so any number of callers can share the pool.
    """
    pieces = min(items, 8 * threads) if threads > 1 else 1
    bounds = [items * piece // pieces for piece in range(pieces + 1)]
    waiting = deque(pairwise(bounds))

    def work() -> None:
        while True:
            try:
                start, stop = waiting.popleft()
            except IndexError:
                return
            kernel(*arrays, start, stop)

    helping = [_helpers().submit(work) for _ in range(min(threads, pieces) - 1)]
    work()
    for helper in helping:
        helper.result()
