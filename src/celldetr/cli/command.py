"""A command of ours: options of earlier versions are understood, and a user's mistake is one line and exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

from celldetr.cli.messages import complain, note, noted, options_of_command
from celldetr.config import Config
from celldetr.errors import DataWarning, InputError

# Options that were renamed in 0.2.0, by command. They are understood for one version.
RENAMED: dict[str, dict[str, list[str]]] = {
    "sample": {"--boxes": ["--polygons"], "--val": ["--validation"], "--png": ["--encoding", "png"]},
    "ablate": {"--seeds": ["--only-seeds"]},
    "export": {"--to": ["--format"]},
    "evaluate": {"--types": ["--join"]},
    "label": {"--types": ["--type-column"], "--options": ["--config"]},
    "type": {"--types": ["--type-column"], "--options": ["--config"]},
    "read": {"--options": ["--config"]},
    "qc": {"--options": ["--config"]},
    "align": {"--options": ["--config"]},
    "write": {"--options": ["--config"]},
    "options": {"--options": ["--config"]},
}


def settings_of(command: Any) -> dict[str, FieldInfo]:
    """All settings of a command, with dotted names, in the order of its configs."""
    configs: Callable[[], tuple[type[Config], ...]] = getattr(command.callback, "configs", tuple)
    return {name: field for config in configs() for name, field in config.settings()}


class Command(TyperCommand):
    """A command of ``celldetr``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Replace options of earlier versions before they are parsed."""
        renamed = RENAMED.get(self.name or "", {})
        current: list[str] = []
        for place, arg in enumerate(args):
            if arg == "--":
                current += args[place:]
                break
            old, equals, value = arg.partition("=")
            if old in renamed:
                note(f"{old} is called {' '.join(renamed[old])} now")
                current += [*renamed[old][:-1], renamed[old][-1] + equals + value]
            else:
                current.append(arg)
        return super().parse_args(ctx, current)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        flags: dict[str, tuple[str, ...]] = {name: (f"--set {name}",) for name in settings_of(self)}
        for param in self.params:
            if param.param_type_name == "option":
                flags[param.name or ""] = (max(param.opts, key=len), *param.secondary_opts)
        with options_of_command(flags), noted(DataWarning):
            try:
                return super().invoke(ctx)
            except InputError as error:
                complain(error)
                raise typer.Exit(2) from None
