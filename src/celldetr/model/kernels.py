"""Compiles the Numba kernels, a copy for each use, and runs them on a few threads.

The kernels release the GIL, so ordinary Python threads do. Numba's own ``prange`` is not used because its threading
layer must not be entered from several Python threads at once and competes with PyTorch's OpenMP pool for the cores.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import FunctionType
from typing import Any, cast

from celldetr.jit import compiled
from celldetr.model import simd

# Numba's cache notices a change in the file of a kernel, not in what that imports.
_SHARED = zlib.crc32(Path(simd.__file__).read_bytes())
_PIECES_PER_THREAD = 8


def specialise(kernel: Callable[..., None], label: str) -> Callable[..., Any]:
    """A compiled copy of a kernel.

    Each specialisation has a name, hence cache files, of its own: two processes that write different entries to the
    files of one function can leave the one under the other's key.

    Args:
        kernel: a plain function.
        label: of the specialisation, part of a name.
    """
    kernel = cast(FunctionType, kernel)
    copy = FunctionType(kernel.__code__, kernel.__globals__, kernel.__name__)
    copy.__qualname__ = f"{kernel.__name__}_{label}_{_SHARED:08x}"
    return compiled(copy, **simd.OPTIONS)


def run_in_pieces(work: Callable[[int, int], None], items: int, threads: int) -> None:
    """Call ``work(start, stop)`` until [0, items) is covered, from this thread and up to ``threads - 1`` others.

    Each thread takes the next piece when it is done with one, so that a core busy elsewhere delays the result little.
    The caller works too and helpers never wait for anything, so any number of callers share the pool without deadlock.
    """
    if threads == 1 or items <= 1:
        work(0, items)
        return
    count = min(items, _PIECES_PER_THREAD * threads)
    pieces = deque(pairwise(items * piece // count for piece in range(count + 1)))

    def take_pieces() -> None:
        while True:
            try:
                start, stop = pieces.popleft()
            except IndexError:
                return
            work(start, stop)

    helpers = [_pool().submit(take_pieces) for _ in range(min(threads, count) - 1)]
    try:
        take_pieces()
    finally:
        pieces.clear()
        for helper in helpers:  # also after an interrupt: the arrays must outlive the last write to them
            helper.result()


@cache
def _pool() -> ThreadPoolExecutor:
    """The helpers; they start when they are needed."""
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="celldetr-kernel")


if hasattr(os, "register_at_fork"):  # the threads of its parent do not exist in a forked process
    os.register_at_fork(after_in_child=_pool.cache_clear)
