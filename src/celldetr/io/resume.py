"""Going on with what an earlier run has left: the checks that every kind of run makes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from celldetr.errors import InputError


def check_modes(resume: bool, overwrite: bool) -> None:
    """Refuse to go on with what is there and to replace it at once."""
    if resume and overwrite:
        raise InputError("`resume=True` and `overwrite=True` contradict each other; pass one of them")


def differences(then: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """What differs between settings, in words, e.g. ``options.tile: 512, now 256``; a missing one is None."""
    found = []
    for key in {**now, **then}:
        old, new = then.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{within}{key}.")
        elif old != new:
            found.append(f"{within}{key}: {_short(old)}, now {_short(new)}")
    return found


def _short(value: Any) -> str:
    """A value for a message; of a long one (the outline of a ROI) its beginning and a hash."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:40]}... (hash {hashlib.sha256(text.encode()).hexdigest()[:8]})"
