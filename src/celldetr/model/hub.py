"""Where models are found by name: the package's own, and folders the user names. No model is ever downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from celldetr.errors import InputError, near
from celldetr.io.safe_io import expand_user, is_dir, is_file
from celldetr.model.checkpoint import CARD_FILE, Card, read_card

DEFAULT_MODEL = "pan-20x"
PACKAGED = Path(__file__).resolve().parents[1] / "weights"
VARIABLE = "CELLDETR_MODELS"  # folders with more checkpoints, separated as in PATH


def folders() -> list[Path]:
    """Folders searched, in order: those of ``CELLDETR_MODELS``, then the package's."""
    named = [expand_user(Path(part)) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    return [*named, PACKAGED]


def list_models() -> dict[str, Path]:
    """Every model that can be loaded by name -> its folder; the first found wins.

    Examples:
        >>> import celldetr
        >>> "small-20x" in celldetr.list_models()
        True
    """
    found: dict[str, Path] = {}
    for folder in folders():
        for card in sorted(folder.glob(f"*/{CARD_FILE}")):
            if card.parent.suffix not in (".tmp", ".old"):  # a checkpoint that is being written, or replaced
                found.setdefault(card.parent.name, card.parent)
    return found


def find_model(name: str | Path | None = None) -> Path:
    """Folder of a checkpoint.

    Args:
        name: a name that ``list_models`` knows, a checkpoint's folder, or a training run's folder; None: the default.

    Raises:
        InputError: there is none; the message names the near ones.
    """
    wanted = DEFAULT_MODEL if name is None else str(name)
    if name is None and (default := list_models().get(wanted)):  # whatever lies in the working directory
        return default
    path = expand_user(Path(wanted))
    for candidate in (path, path / "model"):
        if is_file(candidate / CARD_FILE):
            return candidate
    models = list_models()
    if wanted in models:
        return models[wanted]
    if is_dir(path) or is_file(path):
        raise InputError(f"{path}: not a CellDETR checkpoint, there is no {CARD_FILE}")
    hint = near(wanted, models) if models else f"there is no model in {', '.join(map(str, folders()))}"
    raise InputError(f"no model {wanted!r}: neither a folder nor a known name; {hint}")


def cards() -> list[Card]:
    """Cards of all models known by name.

    Raises:
        InputError: one of them is broken.
    """
    return [read_card(folder) for folder in list_models().values()]
