"""Numba kernels of multi-scale deformable attention; ``deformable_cpu`` compiles and runs them.

What matters:

- No sample is stored. Each point's four corners are read and added (forward), or dotted and scattered (backward).
- The D channels of a pixel are handled as SIMD registers. Plain loops over them are up to three times slower: the
  compiler must allow for arrays that overlap, and goes through memory for every addition. So D is a constant of the
  compilation, the length of a tuple, ``lanes``, and a few intrinsics do the arithmetic; one compilation a D and dtype.
- A NaN must never become an index: ``fastmath`` leaves out ``nnan`` and ``ninf``, so that the range test of ``_place``,
  which is false for NaN and infinity, is kept; it comes before the cast to int.

Intrinsics and kernels share a file because Numba's cache notices a change only in the file of the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_RELAXED = ("contract", "reassoc", "nsz")
OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": set(_RELAXED), "error_model": "numpy", "boundscheck": False}
_REGISTER_BITS = 256  # narrower units split it; 512 measured no faster
_ALIGN = 4  # bytes; a row can start at any float
_OUTSIDE = -2  # _place: no corner of a point starts left of -1

# What is written for Numba has no types of Python's: it is generic in Numba's.
_njit: Any = njit
_intrinsic: Any = intrinsic
_pointer: Any = types.CPointer
_alloca: Any = cgutils.alloca_once


def forward_kernel(lanes, value, shapes, locations, weights, out, start, stop):  # type: ignore[no-untyped-def]
    """Write out[b, q] for the queries start <= b * Q + q < stop."""
    _, pixels, heads, channels = value.shape
    queries, points = weights.shape[1], weights.shape[4]
    row = heads * channels
    total = _registers(value, lanes)
    for item in range(start, stop):
        b, q = item // queries, item % queries
        for h in range(heads):
            _clear(total, lanes)
            level_start = (b * pixels * heads + h) * channels
            for level in range(len(shapes)):
                height, width = shapes[level]
                for p in range(points):
                    place = locations[b, q, h, level, p]
                    _sample(
                        total, weights[b, q, h, level, p], place[0], place[1], value, level_start, width, height, lanes
                    )
                level_start += height * width * row
            _copy(out, (item * heads + h) * channels, total, 0, lanes)


def fused_kernel(  # type: ignore[no-untyped-def]
    lanes, value, shapes, offsets, logits, reference, ratios, margin, out, start, stop
):
    """As ``forward_kernel``, from what the linear layers return; see ``fused``."""
    real = value.dtype.type
    _, pixels, heads, channels = value.shape
    queries, levels, points = logits.shape[1], logits.shape[3], logits.shape[4]
    row, count = heads * channels, levels * points
    total = _registers(value, lanes)
    factors = np.empty(count, value.dtype)
    reach = np.empty((levels, 2), value.dtype)
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
            _clear(total, lanes)
            level_start = (b * pixels * heads + h) * channels
            for level in range(levels):
                height, width = shapes[level]
                x0, y0 = reference[b, q, 0] * ratios[b, level, 0], reference[b, q, 1] * ratios[b, level, 1]
                for p in range(points):
                    dx, dy = offsets[b, q, h, level, p, 0], offsets[b, q, h, level, p, 1]
                    if margin > 0:
                        dx, dy = real(math.tanh(dx)), real(math.tanh(dy))
                    x, y = x0 + dx * reach[level, 0], y0 + dy * reach[level, 1]
                    _sample(total, factors[level * points + p] * scale, x, y, value, level_start, width, height, lanes)
                level_start += height * width * row
            _copy(out, (item * heads + h) * channels, total, 0, lanes)


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
                height, width = shapes[level]
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
                            nw = _dot(grad, up, value, pixel, lanes)
                            _add(grad_value, pixel, upper * left, grad, up, lanes)
                        if x + 1 < width:
                            ne = _dot(grad, up, value, pixel + row, lanes)
                            _add(grad_value, pixel + row, upper * right, grad, up, lanes)
                    pixel += width * row
                    if y + 1 < height:
                        if x >= 0:
                            sw = _dot(grad, up, value, pixel, lanes)
                            _add(grad_value, pixel, lower * left, grad, up, lanes)
                        if x + 1 < width:
                            se = _dot(grad, up, value, pixel + row, lanes)
                            _add(grad_value, pixel + row, lower * right, grad, up, lanes)
                    north, south = nw + right * (ne - nw), sw + right * (se - sw)
                    grad_weights[b, q, h, level, p] = north + low * (south - north)
                    grad_locations[b, q, h, level, p, 0] = real(width) * (upper * (ne - nw) + lower * (se - sw))
                    grad_locations[b, q, h, level, p, 1] = real(height) * weight * (south - north)
                level_start += height * width * row


@_njit(**OPTIONS)
def _sample(total, weight, x_fraction, y_fraction, value, level_start, width, height, lanes):  # type: ignore[no-untyped-def]
    """total += weight * the bilinear sample at a point of a level."""
    real = value.dtype.type
    row = value.shape[2] * value.shape[3]
    x, right = _place(x_fraction, real(width))
    y, low = _place(y_fraction, real(height))
    if x == _OUTSIDE or y == _OUTSIDE:
        return
    lower = weight * low
    upper = weight - lower
    left = real(1) - right
    pixel = level_start + (y * width + x) * row
    if y >= 0:
        if x >= 0:
            _add(total, 0, upper * left, value, pixel, lanes)
        if x + 1 < width:
            _add(total, 0, upper * right, value, pixel + row, lanes)
    pixel += width * row
    if y + 1 < height:
        if x >= 0:
            _add(total, 0, lower * left, value, pixel, lanes)
        if x + 1 < width:
            _add(total, 0, lower * right, value, pixel + row, lanes)


@_njit(**OPTIONS)
def _softmax(logits, start, factors):  # type: ignore[no-untyped-def]
    """Write the exponentials of the logits from element ``start`` on; returns what makes them add up to one."""
    flat = logits.ravel()
    highest = flat[start]
    for i in range(1, len(factors)):
        highest = max(highest, flat[start + i])
    total = np.float32(0)
    for i in range(len(factors)):
        factors[i] = _exp(flat[start + i] - highest)
        total += factors[i]
    return np.float32(1) / total


@_njit(**OPTIONS)
def _exp(x):  # type: ignore[no-untyped-def]
    """exp(x) of a float32 x <= 0 to 2e-7 of itself; unlike the library's, the compiler can do several at once.

    2^n times a polynomial in the remainder, |r| <= ln(2) / 2 (Cephes' expf).
    """
    x = max(x, np.float32(-87.0))  # the smallest normal number
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    y = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
    y = y * r + np.float32(8.3334519073e-3)
    y = y * r + np.float32(4.1665795894e-2)
    y = y * r + np.float32(1.6666665459e-1)
    y = y * r + np.float32(5.0000001201e-1)
    y = y * r * r + r + np.float32(1)
    return y * _power_of_two(np.int32(n))


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


# The intrinsics below address a row of len(lanes) elements as an array and the offset, in elements, at which it starts;
# a row of ``_registers`` has the offset 0. Each is a function from types to a signature and a generator of LLVM code.


@_intrinsic
def _registers(_typing, array, lanes):  # type: ignore[no-untyped-def]
    """A row on the stack, of the dtype of the array, that the compiler keeps in registers."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _alloca(builder, context.get_value_type(array.dtype), size=len(lanes))

    return _pointer(array.dtype)(array, lanes), generate


@_intrinsic
def _power_of_two(_typing, n):  # type: ignore[no-untyped-def]
    """2^n as a float32, -126 <= n <= 127, by way of its bits."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        exponent = builder.add(arguments[0], ir.Constant(ir.IntType(32), 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return types.float32(types.int32), generate


@_intrinsic
def _clear(_typing, row, lanes):  # type: ignore[no-untyped-def]
    """row = 0."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        for place in _vectors(context, builder, lanes, row, arguments[0], _constant(0)):
            builder.store(ir.Constant(place.type.pointee, None), place, align=_ALIGN)
        return context.get_dummy_value()

    return types.void(row, lanes), generate


@_intrinsic
def _copy(_typing, target, target_offset, source, source_offset, lanes):  # type: ignore[no-untyped-def]
    """target = source."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to = _vectors(context, builder, lanes, target, *arguments[:2])
        of = _vectors(context, builder, lanes, source, *arguments[2:4])
        for place, read in zip(to, of, strict=True):
            builder.store(builder.load(read, align=_ALIGN), place, align=_ALIGN)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, lanes), generate


@_intrinsic
def _add(_typing, target, target_offset, factor, source, source_offset, lanes):  # type: ignore[no-untyped-def]
    """target += factor * source."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to = _vectors(context, builder, lanes, target, *arguments[:2])
        of = _vectors(context, builder, lanes, source, *arguments[3:5])
        for place, read in zip(to, of, strict=True):
            vector = place.type.pointee
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), arguments[2], _constant(0))
            factors = builder.shuffle_vector(one, one, _indices([0] * vector.count))
            product = builder.fmul(factors, builder.load(read, align=_ALIGN), flags=_RELAXED)
            added = builder.fadd(builder.load(place, align=_ALIGN), product, flags=_RELAXED)
            builder.store(added, place, align=_ALIGN)
        return context.get_dummy_value()

    return types.void(target, types.intp, source.dtype, source, types.intp, lanes), generate


@_intrinsic
def _dot(_typing, first, first_offset, second, second_offset, lanes):  # type: ignore[no-untyped-def]
    """The inner product of two rows."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        left = _vectors(context, builder, lanes, first, *arguments[:2])
        right = _vectors(context, builder, lanes, second, *arguments[2:4])
        sums: dict[int, Any] = {}  # one vector a width
        for one, other in zip(left, right, strict=True):
            width = one.type.pointee.count
            pair = builder.load(one, align=_ALIGN), builder.load(other, align=_ALIGN)
            product = builder.fmul(*pair, flags=_RELAXED)
            sums[width] = builder.fadd(sums[width], product, flags=_RELAXED) if width in sums else product
        totals = [_total(builder, vector) for vector in sums.values()]
        return reduce(lambda one, other: builder.fadd(one, other, flags=_RELAXED), totals)

    return first.dtype(first, types.intp, second, types.intp, lanes), generate


def _vectors(context: Any, builder: Any, lanes: Any, kind: Any, array: Any, offset: Any) -> list[Any]:
    """Pointers to the vectors that make up a row: as many whole registers as fit, then halves, quarters, ..."""
    is_pointer = isinstance(kind, types.CPointer)
    start = builder.gep(array if is_pointer else context.make_array(kind)(context, builder, array).data, [offset])
    element = context.get_value_type(kind.dtype)
    pointers, done, width = [], 0, _REGISTER_BITS // kind.dtype.bitwidth
    while done < len(lanes):
        while done + width > len(lanes):
            width //= 2
        place = builder.gep(start, [_constant(done)])
        pointers.append(builder.bitcast(place, ir.VectorType(element, width).as_pointer()))
        done += width
    return pointers


def _total(builder: Any, vector: Any) -> Any:
    """The sum of the elements of a vector, by halves."""
    width = vector.type.count
    while width > 1:
        width //= 2
        halves = [builder.shuffle_vector(vector, vector, _indices(range(start, start + width))) for start in (0, width)]
        vector = builder.fadd(*halves, flags=_RELAXED)
    return builder.extract_element(vector, _constant(0))


def _constant(number: int) -> Any:
    return ir.Constant(ir.IntType(64), number)


def _indices(numbers: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), list(numbers))
