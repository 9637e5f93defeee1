"""What commands say on standard error beside their progress: errors and notes.

The library names its parameters, in backticks: "holds a run; set `overwrite=True`". A command has options instead, so
it says "set --overwrite".
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

PARAMETER = re.compile(r"`(\w[\w.]*)(?:=([^`]*))?`")
_flags: Mapping[str, tuple[str, ...]] = {}  # of the command that runs: parameter -> option, and that of False if any


@contextmanager
def options_of_command(flags: Mapping[str, tuple[str, ...]]) -> Iterator[None]:
    """Name parameters in messages by the options of a command, in here."""
    global _flags
    before, _flags = _flags, flags
    try:
        yield
    finally:
        _flags = before


def with_options(text: str) -> str:
    """A message of the library with parameters as options: `mpp=0.5` as --mpp 0.5, `overwrite=True` as
    --overwrite, `swap_xy=False` as --set read.swap_xy=False."""

    def option(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in _flags:
            # The library knows a setting by its own name, a command by that of its part, too.
            inner = [key for key in _flags if key.endswith(f".{name}")]
            if len(inner) != 1:
                return match.group()
            name = inner[0]
        on, *off = _flags[name]
        if on.startswith("--set "):
            return on if value is None else f"{on}={value}"
        if value == "False" and off:
            return off[0]
        return on if value in (None, "True") else f"{on} {value}"

    return PARAMETER.sub(option, text)


def complain(error: Exception | str) -> None:
    """Say what is wrong, on one line."""
    typer.echo(f"error: {with_options(' '.join(str(error).split()))}", err=True)


def note(text: object) -> None:
    """Say what a user should know of a result."""
    typer.echo(f"note: {with_options(str(text))}", err=True)


@contextmanager
def noted(ours: type[Warning]) -> Iterator[None]:
    """Say warnings of one kind as notes, each once; Python's own way adds a line of source code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ours)
        show, said = warnings.showwarning, set[str]()

        def say(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, ours):
                if str(message) not in said:
                    note(message)
                said.add(str(message))
            else:
                show(message, category, *place)

        warnings.showwarning = say  # type: ignore[assignment]
        yield
