"""Which device to run on, and whether it multiplies bfloat16."""

from __future__ import annotations

from typing import Any

import torch

from celldetr.errors import InputError


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


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 natively; elsewhere it is emulated, slower than float32."""
    if device.type == "cpu":
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell
        return bool(known.get("avx512_bf16", False))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def in_bf16(precision: str, device: torch.device) -> bool:
    """Whether a setting, ``32``, ``bf16`` or ``auto`` (bf16 where the hardware has it), means bfloat16 on a device."""
    return precision == "bf16" or (precision == "auto" and has_bf16(device))
