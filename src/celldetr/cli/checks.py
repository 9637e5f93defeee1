"""What the commands check of their arguments before anything is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from celldetr.errors import InputError, near

if TYPE_CHECKING:
    from celldetr.config import Precision


def precision(name: str) -> Precision:
    """The arithmetic that --precision names."""
    known: dict[str, Precision] = {"auto": "auto", "32": "32", "bf16": "bf16"}
    if name not in known:
        raise InputError(f"precision {name!r} is unknown; {near(name, known)}")
    return known[name]


def orientations(count: int) -> int:
    """The number that --orientations gives."""
    if count == 1:
        return count  # the network need not be imported
    from celldetr.model.orientations import orientations as chosen

    return len(chosen(count))


def free(out: Path, overwrite: bool, example: str = "metrics.json") -> None:
    """Say before the work, not after it, that its result has no place."""
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"{out}: expected the name of a file in a folder that exists, e.g. {example}")
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already; choose another name or add --overwrite")


def pairs(types: list[str] | None) -> dict[str, str] | None:
    """--map THEIRS=OURS as a dictionary."""
    if not types:
        return None
    for pair in types:
        if "=" not in pair:
            raise InputError(f"--map {pair!r}: expected theirs=ours, e.g. --map neoplastic=epithelial")
    return dict(pair.split("=", 1) for pair in types)


def seeds(text: str | None) -> tuple[int, ...]:
    """--seeds 0,1 as numbers; none given: none."""
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--seeds {text!r}: expected whole numbers with commas between, e.g. --seeds 0,1") from None


def own_data(path: Path | None, mpp: float | None, types: list[str] | None) -> dict[str, Any] | None:
    """What --data, --mpp and --map of ``train`` mean for a recipe; None: it has its own data."""
    if path is None:
        if mpp is not None or types:
            raise InputError("--mpp and --map say something of --data FOLDER_OR_FILE, which is missing")
        return None
    from celldetr.recipes.own_data import own_sources

    return own_sources(path, mpp, pairs(types))
