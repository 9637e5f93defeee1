"""What models are called side by side: of their paths as little as tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from celldetr.errors import InputError

MODEL = "model"  # the checkpoint in the folder of a run, which says nothing


def short_titles(names: Sequence[str]) -> list[str]:
    """A title for each name or path.

    The last part alone where that is enough (``runs/a/model`` is ``a``); else as many more as it takes, without those
    at the end that all have (``runs/neither/seed0``, ``runs/both/seed0``: ``neither``, ``both``).

    Raises:
        InputError: two names are the same model.
    """
    paths = [_parts(name) for name in names]
    if twice := sorted({name for name, path in zip(names, paths, strict=True) if paths.count(path) > 1}):
        raise InputError(f"model {twice[0]}: is named twice; name each model once")
    depth = 1
    while len({path[-depth:] for path in paths}) < len(paths):
        depth += 1
    ends = [path[-depth:] for path in paths]
    while min(map(len, ends), default=0) > 1 and len({end[-1] for end in ends}) == 1:
        ends = [end[:-1] for end in ends]
    return ["/".join(end) for end in ends]


def _parts(name: str) -> tuple[str, ...]:
    parts = Path(name).parts
    return parts[:-1] if len(parts) > 1 and parts[-1] == MODEL else parts
