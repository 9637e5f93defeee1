"""Memory that was freed goes back to the system: glibc keeps it, in pieces, and a long run would seem to grow."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # another C library
        return None


def release() -> None:
    """Give back what is free; takes milliseconds. Does nothing where the C library has no such call."""
    trim = _trim()
    if trim is not None:
        trim(0)
