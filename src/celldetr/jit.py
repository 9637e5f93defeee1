"""Compile functions with Numba, and keep the result on disk where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

_njit: Any = njit


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A plain function, compiled for the types it is called with; ``options`` are those of ``numba.njit``."""
    try:
        return _njit(cache=True, **options)(function)
    except RuntimeError:  # no directory to write to: compile in each process instead
        return _njit(**options)(function)
