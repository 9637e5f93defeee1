"""Numba kernels of multi-scale deformable attention, forward and backward; ``deformable_cpu`` compiles and runs them.

What matters:

- No sample is stored. Each point's four corners are read and added (forward), or dotted and scattered (backward).
- The D channels of a pixel are handled as SIMD registers (``simd``): six times as fast as plain loops.
- Locations and weights are made in kernels: 1.4 to 1.5 times as fast on a whole tile, 1.1 on a step of training.
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
_njit: Any = njit  # what is written for Numba has no types of Python's: it is generic in Numba's


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


def prepare_kernel(  # type: ignore[no-untyped-def]
    lanes, offsets, logits, shapes, reference, ratios, margin, inside, locations, weights, start, stop
):
    """Write what ``fused_kernel`` makes on its way, for the queries start <= b * Q + q < stop."""
    real = np.float32
    queries, heads, levels, points = logits.shape[1:]
    count = levels * points
    factors, reach = np.empty(count, np.float32), np.empty((levels, 2), np.float32)
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
                    locations[b, q, h, level, p, 0] = _inside(x + dx * reach_x, shapes[level, 1], inside)
                    locations[b, q, h, level, p, 1] = _inside(y + dy * reach_y, shapes[level, 0], inside)


def finish_kernel(  # type: ignore[no-untyped-def]
    lanes, offsets, weights, shapes, reference, ratios, margin, inside, grad_locations, grad_weights, start, stop
):
    """Turn gradients of locations and weights into those of offsets and logits, in place; queries as above."""
    real = np.float32
    queries, heads, levels, points = weights.shape[1:]
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
            mean = real(0)
            for level in range(levels):
                for p in range(points):
                    mean += weights[b, q, h, level, p] * grad_weights[b, q, h, level, p]
            for level in range(levels):
                x, y = reference[b, q, 0] * ratios[b, level, 0], reference[b, q, 1] * ratios[b, level, 1]
                reach_x, reach_y = reach[level, 0], reach[level, 1]
                for p in range(points):
                    weight = weights[b, q, h, level, p]
                    grad_weights[b, q, h, level, p] = weight * (grad_weights[b, q, h, level, p] - mean)
                    slope_x, slope_y = reach_x, reach_y
                    dx, dy = offsets[b, q, h, level, p, 0], offsets[b, q, h, level, p, 1]
                    if margin > 0:
                        dx, dy = tanh(dx), tanh(dy)
                        slope_x, slope_y = reach_x * (real(1) - dx * dx), reach_y * (real(1) - dy * dy)
                    # A point that was clamped does not move with its offset.
                    x_moves = _inside(x + dx * reach_x, shapes[level, 1], inside) == x + dx * reach_x
                    y_moves = _inside(y + dy * reach_y, shapes[level, 0], inside) == y + dy * reach_y
                    grad_locations[b, q, h, level, p, 0] *= slope_x if x_moves else real(0)
                    grad_locations[b, q, h, level, p, 1] *= slope_y if y_moves else real(0)


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
def _inside(fraction, size, inside):  # type: ignore[no-untyped-def]
    """A coordinate, with ``inside`` = 1 clamped to the centres of the first and the last pixel of a level."""
    if inside <= 0:
        return fraction
    edge = np.float32(0.5) / np.float32(size)
    low = fraction if fraction > edge else edge
    return low if low < np.float32(1) - edge else np.float32(1) - edge


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
