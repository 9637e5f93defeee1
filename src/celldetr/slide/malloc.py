"""Return freed memory to the system: glibc keeps it, in a heap a thread, and a run seems to grow."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

M_ARENA_MAX = -8  # of mallopt(3)
ARENAS = 2  # one for the thread of the model, one for those that read


@cache
def _libc() -> Any:
    """The C library, or None where it lacks these calls."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None


def share_heaps() -> None:
    """Let the threads that start from now on share heaps, on glibc."""
    if (libc := _libc()) is not None:
        libc.mallopt(M_ARENA_MAX, ARENAS)


def release() -> None:
    """Return what is free, on glibc; takes milliseconds."""
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)
