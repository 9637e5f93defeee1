"""Memory that a run does not need: glibc keeps what was freed, in pieces, and gives each thread a heap of its own.

Over a large slide a run would seem to grow.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

M_ARENA_MAX = -8  # of mallopt(3)
ARENAS = 2  # one for the thread of the model, one for those that read


@cache
def _libc() -> Any:
    """The C library, or None where it has not the calls that are needed."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None


def share_heaps() -> None:
    """Let the threads that start from now on share heaps. Does nothing where the C library has no such call."""
    if (libc := _libc()) is not None:
        libc.mallopt(M_ARENA_MAX, ARENAS)


def release() -> None:
    """Give back what is free; takes milliseconds. Does nothing where the C library has no such call."""
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)
