"""Runs a compiled kernel over a range of independent items on a few threads.

The kernels release the GIL, so ordinary Python threads do. Numba's own ``prange`` is not used because its threading
layer must not be entered from several Python threads at once and competes with PyTorch's OpenMP pool for the cores.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

_PIECES_PER_THREAD = 8

_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


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

    helpers = [_helpers().submit(take_pieces) for _ in range(min(threads, count) - 1)]
    try:
        take_pieces()
    finally:
        # Also after an interrupt: the arrays must outlive the last write to them.
        pieces.clear()
        errors = [helper.exception() for helper in helpers]
    for error in errors:
        if error is not None:
            raise error


def _helpers() -> ThreadPoolExecutor:
    """The pool; its threads start only when they are needed."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="celldetr-kernel")
        return _pool


def _forget_pool() -> None:
    """Start anew in a forked process, a DataLoader's worker say: the threads of its parent do not exist there."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
