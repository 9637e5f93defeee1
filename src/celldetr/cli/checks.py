"""What the commands check of their arguments before anything is done."""

from __future__ import annotations

from pathlib import Path

from celldetr.errors import InputError


def free(out: Path, overwrite: bool, example: str = "metrics.json") -> None:
    """Say before the work, not after it, that its result has no place."""
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"{out}: expected the name of a file in a folder that exists, e.g. {example}")
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already; choose another name or add `overwrite=True`")


def seeds(text: str | None) -> tuple[int, ...]:
    """--seeds 0,1 as numbers; none given: none."""
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--seeds {text!r}: expected whole numbers with commas between, e.g. --seeds 0,1") from None
