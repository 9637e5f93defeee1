"""The one exception a user's mistake raises.

Everything that can be wrong with an input (a path, a slide, a card, a checkpoint, an option) ends in ``InputError``
with a single line that names the value, what was expected and what to do. The command line prints that line and exits
with code 2; in Python it is a ``ValueError``, so callers need no import of ours to catch it. A message names parameters
as in Python and in backticks, `` `overwrite=True` `` or `` `mpp` ``; the command line turns these into its options.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

LONGEST = 2000  # characters of a message


class InputError(ValueError):
    """A value given by the user cannot be used; the message says which, why, and what would have been accepted.

    The message is one line, whatever names and values from files are in it: what cannot be printed (line breaks, the
    escape sequences of terminals) becomes a space.

    Examples:
        >>> import celldetr
        >>> celldetr.load_model("small-2x")
        Traceback (most recent call last):
        celldetr.errors.InputError: no model 'small-2x': ... did you mean 'small-20x'?
    """

    def __init__(self, message: object) -> None:
        text = "".join(character if character.isprintable() else " " for character in str(message)[: LONGEST + 1])
        super().__init__(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...")


class OneProcessError(InputError):
    """An ``InputError`` of one process among several, which the others do not have and therefore do not tell."""


def near(value: str, accepted: Iterable[str]) -> str:
    """Finish an error message about an unknown name: ``did you mean 'x'?`` or the list of what is accepted.

    Args:
        value: what the user wrote.
        accepted: the names that exist.
    """
    names = sorted(accepted)
    close = get_close_matches(value, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "expected one of " + ", ".join(repr(name) for name in names)


def install(extra: str) -> str:
    """The command that installs an extra of the package into this Python, from where the package itself came."""
    origin = json.loads(distribution("celldetr").read_text("direct_url.json") or "{}")  # PEP 610; not from an index
    if origin.get("dir_info", {}).get("editable"):
        what = f"-e '{Path(__file__).resolve().parents[2]}[{extra}]'"  # without -e a copy would replace the clone
    else:
        source = f" @ {origin['url']}" if origin else ""
        what = f"'celldetr[{extra}]{source}'"
    return f"{sys.executable} -m pip install {what}"


def optional(module: str, extra: str) -> Any:
    """Import a module that an extra brings.

    Raises:
        InputError: it is not installed; how to install the extra is said.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"this needs {error.name or module}, which is not installed: {install(extra)}") from None


class UntypedWarning(UserWarning):
    """A model that was pretrained without types is used to predict."""


class SlowWarning(UserWarning):
    """What was asked for can be done, and takes so long that one may want to ask for less."""


class DataWarning(UserWarning):
    """Something of a user's files was left out, joined or read in a way that may not be meant."""


def doubt(text: str) -> None:
    """Warn of a user's files; commands say it as a note."""
    warnings.warn(DataWarning(text), stacklevel=2)


def untyped(name: str) -> str:
    """What there is to say of such a model."""
    return (
        f"model {name!r} was pretrained without types: it finds cells and embeds them, and calls every cell 'untyped';"
        " for types, train a recipe with its folder as init (docs/reports/pretraining.md)"
    )
