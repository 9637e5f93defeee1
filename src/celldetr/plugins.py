"""What other installed packages bring, by their entry points: readers of labels, and backbones."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from celldetr.errors import InputError

READERS, BACKBONES = "celldetr.readers", "celldetr.backbones"  # groups of entry points


def plugin_names(group: str) -> list[str]:
    """Names of what packages bring of a group."""
    return sorted(entry_points(group=group).names)


def load_plugin(group: str, name: str) -> Any | None:
    """What the name stands for; None: no package brings it.

    Raises:
        InputError: two packages bring it, or it cannot be imported.
    """
    found = tuple(entry_points(group=group, name=name))
    if not found:
        return None
    if len({point.value for point in found}) > 1:
        raise InputError(f"{group} {name!r}: is brought by {' and '.join(point.value for point in found)}; remove one")
    try:
        return found[0].load()
    except Exception as error:  # whatever the code of others does when it is imported
        raise InputError(f"{group} {name!r}: {found[0].value} cannot be imported ({error})") from error
