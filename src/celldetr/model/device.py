"""Which device to run on, whether it multiplies bfloat16, and PyTorch's state that a host program may have changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch

from celldetr.errors import InputError

# oneDNN runs bfloat16 at these limits too, by conversion, at half the speed of float32.
AVX512_WITHOUT_BF16 = ("avx512_core", "avx512_core_vnni")


def pick_device(device: str = "auto") -> torch.device:
    """The device to run on: ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        InputError: a device that does not exist here.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if device == "auto":
        return torch.device(available[0])
    kind = device.partition(":")[0]
    if kind not in available:
        there = ", ".join(repr(name) for name in ("auto", *available))
        raise InputError(f"device {device!r} is not available here; there are {there}")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is not a device ({str(error).splitlines()[0]})") from None
    if kind == "cpu":
        return torch.device("cpu")
    if kind == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {device!r} is not available here; there are {torch.cuda.device_count()} CUDA devices")
    return chosen


def onednn_runs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN's convolutions can be called by name.

    In bfloat16 oneDNN needs AVX-512 and the permission to use it: ``ONEDNN_MAX_CPU_ISA`` may hold it to less.
    """
    here = device.type == "cpu" and torch.backends.mkldnn.is_available()
    return here and (dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def onednn_limit() -> str:
    """Largest instruction set that the environment allows oneDNN, in lower case; empty: no limit."""
    return (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").lower()


def has_bf16(device: torch.device) -> bool:
    """Whether matrix products run in native bfloat16 on a device; where it is emulated, float32 is faster.

    On a CPU the processor must have the instructions and oneDNN must be free to use them. What ATen is held to
    (``ATEN_CPU_CAPABILITY``) does not matter: it computes no matrix product here.
    """
    if device.type == "cpu":
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent from older torch
        native = bool(known.get("avx512_bf16", False)) and onednn_runs(device, torch.bfloat16)
        return native and onednn_limit() not in AVX512_WITHOUT_BF16
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def in_bf16(precision: str, device: torch.device) -> bool:
    """Whether a setting, ``32``, ``bf16`` or ``auto`` (bf16 where it runs natively), means bfloat16 on a device."""
    return precision == "bf16" or (precision == "auto" and has_bf16(device))


@contextmanager
def in_float32() -> Iterator[None]:
    """Compute in float32 in here, also where another library has set PyTorch's default to float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@cache
def guard_forks() -> None:
    """Let processes that are forked from this one from now on compute on one thread.

    To be called before PyTorch computes on a CPU: OpenMP's threads then exist, but not in a forked process (joblib,
    ``multiprocessing``, gunicorn), which would wait for them for ever.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))
