"""Numba kernels of multi-scale deformable attention; ``deformable_cpu`` compiles and runs them.

What matters:

- No sample is stored. Each point's four corners are read and added (forward), or dotted and scattered (backward).
- The D channels of a pixel are handled as SIMD registers (``simd``); one compilation a D and dtype.
- bfloat16 is read as pairs, without a float32 copy of the values.
- Elements are read one by one: a row taken as a view, even ``height, width = shapes[level]``, counts references with
  atomic additions.
- A NaN must never become an index: ``fastmath`` leaves out ``nnan`` and ``ninf``, so that the range test of ``_place``,
  which is false for NaN and infinity, is kept; it comes before the cast to int.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from celldetr.model.simd import OPTIONS, add, clear, copy, dot, exp, pair, registers, single, tanh

_OUTSIDE = -2  # _place: no corner of a point starts left of -1
_njit: Any = njit  # what is written for Numba has no types of Python's: it is generic in Numba's


def forward_kernel(lanes, value, shapes, locations, weights, out, start, stop):  # type: ignore[no-untyped-def]
    """Write out[b, q] for the queries start <= b * Q + q < stop."""
    _, pixels, heads, channels = value.shape
    queries, points = weights.shape[1], weights.shape[4]
    row = heads * channels
    total = registers(value, lanes)
    for item in range(start, stop):
        b, q = item // queries, item % queries
        for h in range(heads):
            clear(total, value, lanes)
            level_start = (b * pixels * heads + h) * channels
            for level in range(len(shapes)):
                height, width = shapes[level, 0], shapes[level, 1]
                for p in range(points):
                    weight = weights[b, q, h, level, p]
                    x, y = locations[b, q, h, level, p, 0], locations[b, q, h, level, p, 1]
                    _sample(total, weight, x, y, value, level_start, width, height, lanes)
                level_start += height * width * row
            copy(out, (item * heads + h) * channels, total, lanes)


def fused_kernel(  # type: ignore[no-untyped-def]
    lanes, value, shapes, offsets, logits, reference, ratios, margin, out, start, stop
):
    """As ``forward_kernel``, from what the linear layers return; see ``fused``. A channel here may be a pair."""
    real = np.float32
    _, pixels, heads, channels = value.shape
    queries, levels, points = logits.shape[1], logits.shape[3], logits.shape[4]
    row, count = heads * channels, levels * points
    total = registers(value, lanes)
    factors = np.empty(count, np.float32)
    reach = np.empty((levels, 2), np.float32)
    for item in range(start, stop):
        b, q = item // queries, item % queries
        for level in range(levels):
            for axis in range(2):
                if reference.shape[2] == 2:
                    reach[level, axis] = real(1) / real(shapes[level, 1 - axis])
                else:
                    half = reference[b, q, 2 + axis] * real(0.5) * ratios[b, level, axis]
                    reach[level, axis] = half * margin if margin > 0 else half / real(points)
        for h in range(heads):
            scale = _softmax(logits, (item * heads + h) * count, factors)
            clear(total, value, lanes)
            level_start = (b * pixels * heads + h) * channels
            for level in range(levels):
                height, width = shapes[level, 0], shapes[level, 1]
                x0, y0 = reference[b, q, 0] * ratios[b, level, 0], reference[b, q, 1] * ratios[b, level, 1]
                for p in range(points):
                    dx, dy = pair(offsets, (item * heads + h) * count + level * points + p)
                    if margin > 0:
                        dx, dy = tanh(dx), tanh(dy)
                    x, y = x0 + dx * reach[level, 0], y0 + dy * reach[level, 1]
                    _sample(total, factors[level * points + p] * scale, x, y, value, level_start, width, height, lanes)
                level_start += height * width * row
            copy(out, (item * heads + h) * channels, total, lanes)


def backward_kernel(  # type: ignore[no-untyped-def]
    lanes, value, shapes, locations, weights, grad, grad_value, grad_locations, grad_weights, group, start, stop
):
    """Write the gradients of the groups of heads start <= b * (H / group) + number < stop, over zeros."""
    real = value.dtype.type
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


def prepare_kernel(  # type: ignore[no-untyped-def]
    lanes, offsets, logits, shapes, reference, ratios, margin, locations, weights, start, stop
):
    """Write what ``fused_kernel`` makes on its way, for the queries start <= b * Q + q < stop."""
    real = offsets.dtype.type
    queries, heads, levels, points = logits.shape[1:]
    count = levels * points
    factors, reach = np.empty(count, offsets.dtype), np.empty((levels, 2), offsets.dtype)
    for item in range(start, stop):
        b, q = item // queries, item % queries
        for level in range(levels):
            for axis in range(2):
                if reference.shape[2] == 2:
                    reach[level, axis] = real(1) / real(shapes[level, 1 - axis])
                else:
                    half = reference[b, q, 2 + axis] * real(0.5) * ratios[b, level, axis]
                    reach[level, axis] = half * margin if margin > 0 else half / real(points)
        for h in range(heads):
            scale = _softmax(logits, (item * heads + h) * count, factors)
            for level in range(levels):
                x, y = reference[b, q, 0] * ratios[b, level, 0], reference[b, q, 1] * ratios[b, level, 1]
                reach_x, reach_y = reach[level, 0], reach[level, 1]
                for p in range(points):
                    weights[b, q, h, level, p] = factors[level * points + p] * scale
                    dx, dy = offsets[b, q, h, level, p, 0], offsets[b, q, h, level, p, 1]
                    if margin > 0:
                        dx, dy = tanh(dx), tanh(dy)
                    locations[b, q, h, level, p, 0] = x + dx * reach_x
                    locations[b, q, h, level, p, 1] = y + dy * reach_y


def finish_kernel(  # type: ignore[no-untyped-def]
    lanes, offsets, weights, shapes, reference, ratios, margin, grad_locations, grad_weights, start, stop
):
    """Turn gradients of locations and weights into those of offsets and logits, in place; queries as above."""
    real = offsets.dtype.type
    queries, heads, levels, points = weights.shape[1:]
    reach = np.empty((levels, 2), offsets.dtype)
    for item in range(start, stop):
        b, q = item // queries, item % queries
        for level in range(levels):
            for axis in range(2):
                if reference.shape[2] == 2:
                    reach[level, axis] = real(1) / real(shapes[level, 1 - axis])
                else:
                    half = reference[b, q, 2 + axis] * real(0.5) * ratios[b, level, axis]
                    reach[level, axis] = half * margin if margin > 0 else half / real(points)
        for h in range(heads):
            mean = real(0)
            for level in range(levels):
                for p in range(points):
                    mean += weights[b, q, h, level, p] * grad_weights[b, q, h, level, p]
            for level in range(levels):
                reach_x, reach_y = reach[level, 0], reach[level, 1]
                for p in range(points):
                    weight = weights[b, q, h, level, p]
                    grad_weights[b, q, h, level, p] = weight * (grad_weights[b, q, h, level, p] - mean)
                    slope_x, slope_y = reach_x, reach_y
                    if margin > 0:
                        dx, dy = tanh(offsets[b, q, h, level, p, 0]), tanh(offsets[b, q, h, level, p, 1])
                        slope_x, slope_y = reach_x * (real(1) - dx * dx), reach_y * (real(1) - dy * dy)
                    grad_locations[b, q, h, level, p, 0] *= slope_x
                    grad_locations[b, q, h, level, p, 1] *= slope_y


@_njit(**OPTIONS)
def _sample(total, weight, x_fraction, y_fraction, value, level_start, width, height, lanes):  # type: ignore[no-untyped-def]
    """total += weight * the bilinear sample at a point of a level."""
    row = value.shape[2] * value.shape[3]
    x, right = _place(x_fraction, np.float32(width))
    y, low = _place(y_fraction, np.float32(height))
    if x == _OUTSIDE or y == _OUTSIDE:
        return
    lower = weight * low
    upper = weight - lower
    left = np.float32(1) - right
    pixel = level_start + (y * width + x) * row
    if y >= 0:
        if x >= 0:
            add(total, 0, upper * left, value, pixel, lanes)
        if x + 1 < width:
            add(total, 0, upper * right, value, pixel + row, lanes)
    pixel += width * row
    if y + 1 < height:
        if x >= 0:
            add(total, 0, lower * left, value, pixel, lanes)
        if x + 1 < width:
            add(total, 0, lower * right, value, pixel + row, lanes)


@_njit(**OPTIONS)
def _softmax(logits, start, factors):  # type: ignore[no-untyped-def]
    """Write the exponentials of the logits from element ``start`` on; returns what makes them add up to one."""
    highest = np.float32(-np.inf)
    for i in range(len(factors)):
        factors[i] = single(logits, start + i)
        highest = max(highest, factors[i])
    total = np.float32(0)
    for i in range(len(factors)):
        factors[i] = exp(factors[i] - highest)
        total += factors[i]
    return np.float32(1) / total


@_njit(**OPTIONS)
def _place(fraction, size):  # type: ignore[no-untyped-def]
    """The last pixel centre before a coordinate and how far, in pixels, the coordinate lies beyond it.

    ``_OUTSIDE`` if no pixel of the level is a neighbour; -1 if only its first is.
    """
    position = fraction * size - np.float32(0.5)  # of float64 numbers this is a float64
    if position >= -1 and position < size:  # false for NaN
        before = np.floor(position)
        return int(before), position - before
    return _OUTSIDE, position
