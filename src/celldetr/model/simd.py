"""What the Numba kernels are built from: rows of numbers in SIMD registers, and bfloat16.

Plain loops over the channels of a pixel take six times as long in the attention kernel: the compiler must allow for
arrays that overlap, and goes through memory for every addition. So the length of a row is a constant of the
compilation, the length of a tuple, ``lanes``, and a few intrinsics do the arithmetic. bfloat16 comes as pairs in an
int32, even channel low, odd channel high: one shift, or one mask, makes a float32 of either.

A row is addressed as an array and the offset, in elements, at which it starts; a row of ``registers`` has the offset 0.
Each intrinsic is a function from types to a signature and a generator of LLVM code.
"""

from __future__ import annotations

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
WIDE = _REGISTER_BITS // 32  # float32 numbers a register
_ALIGN = 4  # bytes; a row can start at any float

# What is written for Numba has no types of Python's: it is generic in Numba's.
_njit: Any = njit
_intrinsic: Any = intrinsic
_pointer: Any = types.CPointer
_uniform: Any = types.UniTuple
_alloca: Any = cgutils.alloca_once


@_njit(**OPTIONS)
def exp(x):  # type: ignore[no-untyped-def]
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
    return y * power_of_two(np.int32(n))


@_njit(**OPTIONS)
def tanh(x):  # type: ignore[no-untyped-def]
    """tanh(x) of a float32, off by at most 2e-7; NaN stays NaN. Unlike the library's, of several at once."""
    t = exp(np.float32(-2) * abs(x))
    size = (np.float32(1) - t) / (np.float32(1) + t)
    size = size if x >= 0 else -size
    return x if np.isnan(x) else size


@_intrinsic
def registers(_typing, array, lanes):  # type: ignore[no-untyped-def]
    """A row of float32 on the stack that the compiler keeps in registers; for pairs twice as long."""
    length = len(lanes) * (2 if array.dtype == types.int32 else 1)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _alloca(builder, ir.FloatType(), size=length)

    return _pointer(types.float32)(array, lanes), generate


@_intrinsic
def single(_typing, array, index):  # type: ignore[no-untyped-def]
    """The element at a flat index as a float32; int16 holds a bfloat16."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = _place(context, builder, array, arguments[0], arguments[1])
        if array.dtype == types.float32:
            return builder.load(place)
        bits = builder.zext(builder.load(place), ir.IntType(32))
        return builder.bitcast(builder.shl(bits, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(array, types.intp), generate


@_intrinsic
def get(_typing, array, index):  # type: ignore[no-untyped-def]
    """The element at an index that cannot count from the end, as ``array[index]`` may.

    Where the compiler cannot tell, it reads neighbours one by one (a gather) instead of as a register.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.load(_place(context, builder, array, arguments[0], arguments[1]))

    return array.dtype(array, types.intp), generate


@_intrinsic
def put(_typing, array, index, number):  # type: ignore[no-untyped-def]
    """``array[index] = number``, as in ``get``."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        builder.store(arguments[2], _place(context, builder, array, arguments[0], arguments[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


@_intrinsic
def pair(_typing, array, index):  # type: ignore[no-untyped-def]
    """The two numbers at 2 * index and after it, as float32; an int32 holds both as bfloat16."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        if array.dtype == types.float32:
            first = builder.mul(arguments[1], _constant(2))
            indices = first, builder.add(first, _constant(1))
            both = [builder.load(_place(context, builder, array, arguments[0], index)) for index in indices]
        else:
            bits = builder.load(_place(context, builder, array, arguments[0], arguments[1]))
            both = list(_halves(builder, bits, ir.FloatType()))
        return context.make_tuple(builder, signature.return_type, both)

    return _uniform(types.float32, 2)(array, types.intp), generate


@_intrinsic
def power_of_two(_typing, n):  # type: ignore[no-untyped-def]
    """2^n as a float32, -126 <= n <= 127, by way of its bits."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        exponent = builder.add(arguments[0], ir.Constant(ir.IntType(32), 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return types.float32(types.int32), generate


@_intrinsic
def clear(_typing, row, array, lanes):  # type: ignore[no-untyped-def]
    """A row of ``_registers`` = 0."""
    length = len(lanes) * (2 if array.dtype == types.int32 else 1)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        for place in _vectors(context, builder, length, row, arguments[0], _constant(0)):
            builder.store(ir.Constant(place.type.pointee, None), place, align=_ALIGN)
        return context.get_dummy_value()

    return types.void(row, array, lanes), generate


@_intrinsic
def join(_typing, row, other, factor, array, lanes):  # type: ignore[no-untyped-def]
    """row = (row + other) * factor, of two rows of ``registers`` and a float32."""
    length = len(lanes) * (2 if array.dtype == types.int32 else 1)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        rows = (_vectors(context, builder, length, row, place, _constant(0)) for place in arguments[:2])
        for one, two in zip(*rows, strict=True):
            total = builder.fadd(*(builder.load(place, align=_ALIGN) for place in (one, two)), flags=_RELAXED)
            factors = _broadcast(builder, arguments[2], one.type.pointee)
            builder.store(builder.fmul(total, factors, flags=_RELAXED), one, align=_ALIGN)
        return context.get_dummy_value()

    return types.void(row, other, types.float32, array, lanes), generate


@_intrinsic
def copy(_typing, target, target_offset, source, lanes):  # type: ignore[no-untyped-def]
    """Write a row of ``_registers``; into pairs, rounded to the nearest (NaN stays NaN)."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to = _vectors(context, builder, len(lanes), target, *arguments[:2])
        of = _vectors(context, builder, len(lanes), source, arguments[2], _constant(0))
        for place, read in zip(to, of, strict=True):
            if target.dtype == types.int32:
                high = builder.gep(
                    builder.bitcast(read, read.type.pointee.element.as_pointer()), [_constant(len(lanes))]
                )
                low, high = (
                    _rounded(builder, builder.load(half, align=_ALIGN))
                    for half in (read, builder.bitcast(high, read.type))
                )
                low = builder.lshr(low, _splat(low.type, 16))
                pairs = builder.or_(low, builder.and_(high, _splat(high.type, -65536)))
                builder.store(pairs, place, align=_ALIGN)
            else:
                builder.store(builder.load(read, align=_ALIGN), place, align=_ALIGN)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, lanes), generate


@_intrinsic
def add(_typing, target, target_offset, factor, source, source_offset, lanes):  # type: ignore[no-untyped-def]
    """target += factor * source."""
    pairs = source.dtype == types.int32

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to = _vectors(context, builder, len(lanes), target, *arguments[:2])
        of = _vectors(context, builder, len(lanes), source, *arguments[3:5])
        if pairs:  # the even channels come first in the target, then the odd ones
            second = builder.add(arguments[1], _constant(len(lanes)))
            to = list(zip(to, _vectors(context, builder, len(lanes), target, arguments[0], second), strict=True))
        for place, read in zip(to, of, strict=True):
            row = builder.load(read, align=_ALIGN)
            if pairs:
                for half, part in zip(place, _halves(builder, row, place[0].type.pointee), strict=True):
                    _multiply_add(builder, half, arguments[2], part)
            else:
                _multiply_add(builder, place, arguments[2], row)
        return context.get_dummy_value()

    return types.void(target, types.intp, types.float32, source, types.intp, lanes), generate


@_intrinsic
def dot(_typing, first, first_offset, second, second_offset, lanes):  # type: ignore[no-untyped-def]
    """The inner product of two rows."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        left = _vectors(context, builder, len(lanes), first, *arguments[:2])
        right = _vectors(context, builder, len(lanes), second, *arguments[2:4])
        sums: dict[int, Any] = {}  # one vector a width
        for one, other in zip(left, right, strict=True):
            width = one.type.pointee.count
            pair = builder.load(one, align=_ALIGN), builder.load(other, align=_ALIGN)
            product = builder.fmul(*pair, flags=_RELAXED)
            sums[width] = builder.fadd(sums[width], product, flags=_RELAXED) if width in sums else product
        totals = [_total(builder, vector) for vector in sums.values()]
        return reduce(lambda one, other: builder.fadd(one, other, flags=_RELAXED), totals)

    return first.dtype(first, types.intp, second, types.intp, lanes), generate


@_intrinsic
def columns_dot(_typing, out, out_offset, row, matrix, offset, stride, count, lanes):  # type: ignore[no-untyped-def]
    """out[i] = row . the column i of a float32 matrix, for i < count rounded up to ``WIDE``.

    The matrix has len(lanes) rows, ``stride`` elements apart, its first element at ``offset``.
    """
    vector = ir.VectorType(ir.FloatType(), WIDE)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to, of, table = (
            _place(context, builder, kind, array, index)
            for kind, array, index in (
                (out, arguments[0], arguments[1]),
                (row, arguments[2], _constant(0)),
                (matrix, arguments[3], arguments[4]),
            )
        )
        factors = [
            _broadcast(builder, builder.load(builder.gep(of, [_constant(c)])), vector) for c in range(len(lanes))
        ]
        rows = [builder.gep(table, [builder.mul(arguments[5], _constant(c))]) for c in range(len(lanes))]
        groups = builder.sdiv(builder.add(arguments[6], _constant(WIDE - 1)), _constant(WIDE))
        with cgutils.for_range(builder, groups) as loop:
            first = builder.mul(loop.index, _constant(WIDE))
            terms = [
                builder.fmul(factor, _load(builder, builder.gep(place, [first]), vector), flags=_RELAXED)
                for factor, place in zip(factors, rows, strict=True)
            ]
            total = reduce(lambda one, other: builder.fadd(one, other, flags=_RELAXED), terms)
            builder.store(total, builder.bitcast(builder.gep(to, [first]), vector.as_pointer()), align=_ALIGN)
        return context.get_dummy_value()

    integers = (types.intp,) * 3
    return types.void(out, types.intp, row, matrix, *integers, lanes), generate


@_intrinsic
def maximum(_typing, array, count):  # type: ignore[no-untyped-def]
    """The greatest of the first ``count`` float32 numbers, rounded up to ``WIDE``; NaN is passed over.

    The compiler makes no vectors of a plain maximum, because a NaN could be lost.
    """
    vector = ir.VectorType(ir.FloatType(), WIDE)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = _place(context, builder, array, arguments[0], _constant(0))
        best = _alloca(builder, vector)
        builder.store(ir.Constant(vector, [float("-inf")] * WIDE), best)
        groups = builder.sdiv(builder.add(arguments[1], _constant(WIDE - 1)), _constant(WIDE))
        with cgutils.for_range(builder, groups) as loop:
            read = _load(builder, builder.gep(data, [builder.mul(loop.index, _constant(WIDE))]), vector)
            held = builder.load(best)
            builder.store(builder.select(builder.fcmp_ordered(">", read, held), read, held), best)
        held = builder.load(best)
        numbers = [builder.extract_element(held, _constant(i)) for i in range(WIDE)]
        return reduce(lambda one, other: builder.select(builder.fcmp_ordered(">", one, other), one, other), numbers)

    return types.float32(array, types.intp), generate


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Pointer to the element at a flat index."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _load(builder: Any, place: Any, vector: Any) -> Any:
    return builder.load(builder.bitcast(place, vector.as_pointer()), align=_ALIGN)


def _broadcast(builder: Any, number: Any, vector: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, _constant(0))
    return builder.shuffle_vector(one, one, _indices([0] * vector.count))


def _multiply_add(builder: Any, place: Any, factor: Any, row: Any) -> None:
    """*place += factor * row."""
    product = builder.fmul(_broadcast(builder, factor, row.type), row, flags=_RELAXED)
    builder.store(builder.fadd(builder.load(place, align=_ALIGN), product, flags=_RELAXED), place, align=_ALIGN)


def _halves(builder: Any, pairs: Any, real: Any) -> tuple[Any, Any]:
    """int32 numbers, or a vector of them -> their low and their high bfloat16 as float32."""
    low = builder.shl(pairs, _splat(pairs.type, 16))
    high = builder.and_(pairs, _splat(pairs.type, -65536))
    return builder.bitcast(low, real), builder.bitcast(high, real)


def _rounded(builder: Any, row: Any) -> Any:
    """The bits of float32 numbers, of which the upper half is the nearest bfloat16; ties to even."""
    bits = builder.bitcast(row, ir.VectorType(ir.IntType(32), row.type.count))
    odd = builder.and_(builder.lshr(bits, _splat(bits.type, 16)), _splat(bits.type, 1))
    rounded = builder.add(bits, builder.add(odd, _splat(bits.type, 0x7FFF)))
    quiet = builder.or_(bits, _splat(bits.type, 0x400000))  # of a NaN, rounding could make something else
    return builder.select(builder.fcmp_unordered("uno", row, row), quiet, rounded)


def _splat(kind: Any, number: int) -> Any:
    return ir.Constant(kind, [number] * kind.count) if isinstance(kind, ir.VectorType) else ir.Constant(kind, number)


def _vectors(context: Any, builder: Any, length: int, kind: Any, array: Any, offset: Any) -> list[Any]:
    """Pointers to the vectors that make up a row: as many whole registers as fit, then halves, quarters, ..."""
    is_pointer = isinstance(kind, types.CPointer)
    start = builder.gep(array, [offset]) if is_pointer else _place(context, builder, kind, array, offset)
    element = context.get_value_type(kind.dtype)
    pointers, done, width = [], 0, _REGISTER_BITS // kind.dtype.bitwidth
    while done < length:
        while done + width > length:
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
