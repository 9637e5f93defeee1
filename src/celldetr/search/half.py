"""Similarity of one vector to very many that are held as float16, without a float32 copy of them.

NumPy multiplies float16 a number at a time, and a float32 copy is twice the memory. Here a register of halves is
converted and used at once: a million vectors of 128 numbers take as long as reading their 256 MB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from celldetr.jit import compiled

_intrinsic: Any = intrinsic


@_intrinsic
def _single(_typing, bits):  # type: ignore[no-untyped-def]
    """The float32 of the bits of a float16, a type that Numba does not have."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


def _product_kernel(vectors, scales, query, out):  # type: ignore[no-untyped-def]
    for i in range(len(vectors)):
        total = np.float32(0)
        for j in range(len(query)):
            total += _single(vectors[i, j]) * query[j]
        out[i] = total * scales[i] if scales[i] > 0 else np.float32(0)


_products = compiled(_product_kernel, nogil=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")


def similarities(
    vectors: NDArray[np.float16], scales: NDArray[np.float32], query: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Products of (n, d) vectors, each times its scale (n,), with one (d,); 0 where the scale is 0."""
    out = np.empty(len(vectors), np.float32)
    _products(vectors.view(np.uint16), scales, query, out)
    return out
