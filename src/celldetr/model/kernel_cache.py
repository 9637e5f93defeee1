"""Compiles Numba kernels, one name for each specialisation, and keeps them on disk where that is possible."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, cast

from numba import njit

from celldetr.model import simd

_njit: Any = njit
# Numba's cache notices a change in the file of a kernel, not in what that imports.
_SHARED = zlib.crc32(Path(simd.__file__).read_bytes())


def specialise(kernel: Callable[..., None], label: str, options: dict[str, Any]) -> Callable[..., Any]:
    """A compiled copy of a kernel.

    Each specialisation has a name, hence cache files, of its own: two processes that write different entries to the
    files of one function can leave the one under the other's key.

    Args:
        kernel: a plain function.
        label: of the specialisation, part of a name.
        options: of ``njit``.
    """
    kernel = cast(FunctionType, kernel)
    copy = FunctionType(kernel.__code__, kernel.__globals__, kernel.__name__)
    copy.__qualname__ = f"{kernel.__name__}_{label}_{_SHARED:08x}"
    try:
        compiled = _njit(cache=True, **options)(copy)
    except RuntimeError:  # no directory to write to: compile in each process instead
        return cast(Callable[..., Any], _njit(**options)(copy))

    def run(*arguments: Any) -> None:
        try:
            compiled(*arguments)
        except OSError:  # compiled and not begun, for the cache could not be written (disk full)
            compiled(*arguments)

    return run
