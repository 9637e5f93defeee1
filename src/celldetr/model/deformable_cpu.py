"""Multi-scale deformable attention on CPU: Numba kernels, forward and backward; no compiler is needed on the machine.

Work is cut so that no two threads write the same memory: by queries forward, by groups of heads backward. The order of
every sum is fixed, so the result does not depend on the number of threads. What matters:

- No sample is stored. Each point's four corners are read and added (forward), or dotted and scattered (backward).
- The D channels of a pixel are handled as SIMD registers (``simd``): six times as fast as plain loops.
- Forward, locations and weights are made where they are used: 1.4 to 1.5 times as fast on a whole tile.
- bfloat16 is read as pairs, without a float32 copy of the values.
- Elements are read one by one: a row taken as a view, even ``height, width = shapes[level]``, counts references with
  atomic additions.
- A NaN must never become an index: ``fastmath`` leaves out ``nnan`` and ``ninf``, so that the range test of ``_place``,
  which is false for NaN and infinity, is kept; it comes before the cast to int.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from celldetr.model.kernels import run_in_pieces, specialise
from celldetr.model.simd import (
    OPTIONS,
    add,
    clear,
    copy,
    dot,
    exp,
    get,
    join,
    maximum,
    pair,
    put,
    registers,
    single,
    tanh,
)

_OUTSIDE = -2  # _place: no corner of a point starts left of -1
# The table of the fused kernel: rows of _GROUP numbers, eight for each group of points. The first six are three pairs,
# for x and for y.
_GROUP = 16
_CENTRE, _REACH, _OFFSET, _WIDTH, _HEIGHT, _ROWS = 0, 2 * _GROUP, 4 * _GROUP, 6 * _GROUP, 7 * _GROUP, 8
# Fewer multiplications than this are done before a second thread has woken up.
_WORTH_A_THREAD = 100_000
_njit: Any = njit  # what is written for Numba has no types of Python's: it is generic in Numba's


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
    value: NDArray[Any],
    shapes: NDArray[np.int64],
    locations: NDArray[Any],
    weights: NDArray[Any],
    grad: NDArray[Any],
    threads: int,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Gradients of value (B, S, H, D), locations (B, Q, H, L, P, 2) and weights (B, Q, H, L, P), all float32.

    ``grad`` (B, Q, H, D) is that of the result.
    """
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


def fused_kernel(  # type: ignore[no-untyped-def]
    lanes, value, shapes, offsets, logits, reference, ratios, margin, inside, out, start, stop
):
    """Write out[b, q] for the queries start <= b * Q + q < stop; see ``fused``. A channel here may be a pair.

    A head is done in two passes: first where its points are and what their corners weigh, ``_GROUP`` points at once in
    SIMD registers; then the corners, without a branch. Point by point, each has six tests that no processor foresees.
    """
    _, pixels, heads, channels = value.shape
    queries, levels, points = logits.shape[1], logits.shape[3], logits.shape[4]
    row, count = heads * channels, levels * points
    groups = (count + _GROUP - 1) // _GROUP
    total, other = registers(value, lanes), registers(value, lanes)  # two, so that sums wait less for each other
    table = np.zeros(groups * _ROWS * _GROUP, np.float32)
    places = np.zeros(groups * 2 * _GROUP, np.int32)
    raw = np.full(groups * _GROUP, -np.inf, np.float32)
    weights, corners = np.empty(4 * _GROUP, np.float32), np.empty(4 * _GROUP, np.int32)
    _lay_levels(shapes, points, table, places)
    if start < stop:
        _lay_offsets(offsets, logits, start * heads * count, count, margin, table, raw)
    for item in range(start, stop):
        b, q = item // queries, item % queries
        _lay_reference(shapes, points, reference, ratios, margin, b, q, table)
        for h in range(heads):
            clear(total, value, lanes)
            clear(other, value, lanes)
            first = (b * pixels * heads + h) * channels
            highest, together = maximum(raw, count), np.float32(0)
            for group in range(groups):
                together += _find_corners(table, places, raw, group, highest, inside, weights, corners)
                if group == groups - 1 and item * heads + h + 1 < stop * heads:
                    # Of the next head already: numbers just written one by one cannot yet be read as a register.
                    _lay_offsets(offsets, logits, (item * heads + h + 1) * count, count, margin, table, raw)
                for i in range(min(_GROUP, count - group * _GROUP)):
                    add(total, 0, weights[i], value, first + corners[i] * row, lanes)
                    add(other, 0, weights[i + _GROUP], value, first + corners[i + _GROUP] * row, lanes)
                    add(total, 0, weights[i + 2 * _GROUP], value, first + corners[i + 2 * _GROUP] * row, lanes)
                    add(other, 0, weights[i + 3 * _GROUP], value, first + corners[i + 3 * _GROUP] * row, lanes)
            join(total, other, np.float32(1) / together, value, lanes)
            copy(out, (item * heads + h) * channels, total, lanes)


@_njit(**OPTIONS)
def _lay_levels(shapes, points, table, places):  # type: ignore[no-untyped-def]
    """Size of each point's level and the pixel it begins at. Points that only fill up a group lie on a single pixel."""
    for i in range(len(places) // 2):
        group, at = i // _GROUP, i % _GROUP
        table[group * _ROWS * _GROUP + _WIDTH + at] = table[group * _ROWS * _GROUP + _HEIGHT + at] = 1
        places[(group * 2 + 1) * _GROUP + at] = 1
    start = 0
    for level in range(len(shapes)):
        for i in range(level * points, (level + 1) * points):
            group, at = i // _GROUP, i % _GROUP
            table[group * _ROWS * _GROUP + _WIDTH + at] = shapes[level, 1]
            table[group * _ROWS * _GROUP + _HEIGHT + at] = shapes[level, 0]
            places[group * 2 * _GROUP + at] = start
            places[(group * 2 + 1) * _GROUP + at] = shapes[level, 1]
        start += shapes[level, 0] * shapes[level, 1]


@_njit(**OPTIONS)
def _lay_reference(shapes, points, reference, ratios, margin, b, q, table):  # type: ignore[no-untyped-def]
    """Where the points of a query are without their offsets, and how far an offset of 1 reaches: pixels of a level."""
    real = np.float32
    for level in range(len(shapes)):
        for axis in range(2):
            size = real(shapes[level, 1 - axis])
            centre, reach = reference[b, q, axis] * ratios[b, level, axis] * size - real(0.5), real(1)
            if reference.shape[2] == 4:
                half = reference[b, q, 2 + axis] * real(0.5) * ratios[b, level, axis] * size
                reach = half * margin if margin > 0 else half / real(points)
            for i in range(level * points, (level + 1) * points):
                at = i // _GROUP * _ROWS * _GROUP + axis * _GROUP + i % _GROUP
                table[at + _CENTRE], table[at + _REACH] = centre, reach


@_njit(forceinline=True, **OPTIONS)
def _lay_offsets(offsets, logits, start, count, margin, table, raw):  # type: ignore[no-untyped-def]
    """What the linear layers say of the points from ``start`` on: offsets into the table, through tanh, and logits."""
    for group in range(len(raw) // _GROUP):
        at = group * _ROWS * _GROUP + _OFFSET
        for i in range(min(_GROUP, count - group * _GROUP)):
            x, y = pair(offsets, start + group * _GROUP + i)
            put(table, at + i, x)
            put(table, at + _GROUP + i, y)
            put(raw, group * _GROUP + i, single(logits, start + group * _GROUP + i))
        if margin > 0:
            for i in range(2 * _GROUP):
                put(table, at + i, tanh(get(table, at + i)))


@_njit(forceinline=True, **OPTIONS)
def _find_corners(table, places, raw, group, highest, inside, weights, corners):  # type: ignore[no-untyped-def]
    """Weight and pixel of the four corners of each point of a group.

    ``inside`` = 0: a corner outside its level has weight 0; 1: points are clamped to its outermost pixel centres. The
    weights are those of a softmax but for a factor, their sum, which is returned.
    """
    zero, one = np.float32(0), np.float32(1)
    together = zero
    for i in range(_GROUP):
        at = group * _ROWS * _GROUP + i
        width, height = get(table, at + _WIDTH), get(table, at + _HEIGHT)
        x = get(table, at + _CENTRE) + get(table, at + _OFFSET) * get(table, at + _REACH)
        at += _GROUP
        y = get(table, at + _CENTRE) + get(table, at + _OFFSET) * get(table, at + _REACH)
        # NaN too. With inside = 0 the bounds are -1 and the width, where every corner's weight is 0.
        x = x if x > inside - one else inside - one
        y = y if y > inside - one else inside - one
        x = x if x < width - inside else width - inside
        y = y if y < height - inside else height - inside
        left, top = np.floor(x), np.floor(y)
        right, low = x - left, y - top
        factor = exp(get(raw, group * _GROUP + i) - highest)
        together += factor
        east = right if left < width - one else zero
        west = one - right if (left >= zero) & (left < width) else zero
        south = factor * low if top < height - one else zero
        north = factor - factor * low if (top >= zero) & (top < height) else zero
        weights[i], weights[i + _GROUP] = north * west, north * east
        weights[i + 2 * _GROUP], weights[i + 3 * _GROUP] = south * west, south * east
        x0, x1 = np.int32(min(max(left, zero), width - one)), np.int32(min(left + one, width - one))
        y0, y1 = np.int32(min(max(top, zero), height - one)), np.int32(min(top + one, height - one))
        place = group * 2 * _GROUP + i
        upper = get(places, place) + y0 * get(places, place + _GROUP)
        lower = get(places, place) + y1 * get(places, place + _GROUP)
        corners[i], corners[i + _GROUP] = upper + x0, upper + x1
        corners[i + 2 * _GROUP], corners[i + 3 * _GROUP] = lower + x0, lower + x1
    return together


def backward_kernel(  # type: ignore[no-untyped-def]
    lanes, value, shapes, locations, weights, grad, grad_value, grad_locations, grad_weights, group, start, stop
):
    """Write the gradients of the groups of heads start <= b * (H / group) + number < stop, over zeros."""
    real = np.float32
    _, pixels, heads, channels = value.shape
    queries, points = weights.shape[1], weights.shape[4]
    row = heads * channels
    for item in range(start, stop):
        b, first_head = item // (heads // group), item % (heads // group) * group
        for number in range(queries * group):
            q, h = number // group, first_head + number % group
            up = ((b * queries + q) * heads + h) * channels
            level_start = (b * pixels * heads + h) * channels
            for level in range(len(shapes)):
                height, width = shapes[level, 0], shapes[level, 1]
                for p in range(points):
                    x, right = _place(locations[b, q, h, level, p, 0], real(width))
                    y, low = _place(locations[b, q, h, level, p, 1], real(height))
                    if x == _OUTSIDE or y == _OUTSIDE:
                        continue
                    weight = weights[b, q, h, level, p]
                    lower = weight * low
                    upper = weight - lower
                    left = real(1) - right
                    # The products of the upstream gradient with the corners, which are zero outside the level.
                    nw = ne = sw = se = real(0)
                    pixel = level_start + (y * width + x) * row
                    if y >= 0:
                        if x >= 0:
                            nw = dot(grad, up, value, pixel, lanes)
                            add(grad_value, pixel, upper * left, grad, up, lanes)
                        if x + 1 < width:
                            ne = dot(grad, up, value, pixel + row, lanes)
                            add(grad_value, pixel + row, upper * right, grad, up, lanes)
                    pixel += width * row
                    if y + 1 < height:
                        if x >= 0:
                            sw = dot(grad, up, value, pixel, lanes)
                            add(grad_value, pixel, lower * left, grad, up, lanes)
                        if x + 1 < width:
                            se = dot(grad, up, value, pixel + row, lanes)
                            add(grad_value, pixel + row, lower * right, grad, up, lanes)
                    north, south = nw + right * (ne - nw), sw + right * (se - sw)
                    grad_weights[b, q, h, level, p] = north + low * (south - north)
                    grad_locations[b, q, h, level, p, 0] = real(width) * (upper * (ne - nw) + lower * (se - sw))
                    grad_locations[b, q, h, level, p, 1] = real(height) * weight * (south - north)
                level_start += height * width * row


@_njit(**OPTIONS)
def _place(fraction, size):  # type: ignore[no-untyped-def]
    """The last pixel centre before a coordinate and how far, in pixels, the coordinate lies beyond it.

    ``_OUTSIDE`` if no pixel of the level is a neighbour; -1 if only its first is.
    """
    position = fraction * size - np.float32(0.5)
    if position >= -1 and position < size:  # false for NaN
        before = np.floor(position)
        return int(before), position - before
    return _OUTSIDE, position
