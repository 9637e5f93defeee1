"""Write docs/reference/cli.md, all commands, options and settings, from the code. Run by ``make docs-cli``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from celldetr.cli import app
from celldetr.cli.command import settings_of
from celldetr.cli.from_config import describe
from celldetr.cohort.options import ClusterSettings
from celldetr.config import Recipe
from celldetr.spatial.pipeline import SpatialOptions

SHARED = {(Recipe,): "a recipe", (SpatialOptions,): "spatial"}  # configs of several commands
PAGE = Path(__file__).with_name("reference") / "cli.md"
INTRODUCTION = """# Commands

Made from the code by `make docs-cli`. `celldetr COMMAND --help` says the same.

A command that has settings takes all of them with `--set KEY=VALUE` (values are YAML; repeat it for more) and from a
YAML file with `--config FILE`; those that are used most have an option of their own. An option wins over `--set`, and
that over the file:

    celldetr predict slide.svs -o OUT --set overlap=96 --config predict.yaml

A user's mistake is one line on standard error and exit code 2. Progress goes to standard error: a bar on a terminal,
elsewhere (Slurm, CI) a line every half minute; `--quiet` shows neither."""


def commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """All commands of a group and of those in it, with full names."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def section(name: str, command: Any) -> Iterator[str]:
    """The lines about one command."""
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and param.name != "help"]
    yield f"\n## {name}\n"
    yield f"    {' '.join([name, *map(usage, arguments), '[OPTIONS]'])}\n"
    yield inspect.cleandoc(command.help or "")
    yield ""
    for param in arguments:
        yield f"- `{param.metavar}`: {param.help}"
    for param in options:
        yield f"- `{written(param)}`: {' '.join([*param.help.split(), *note(param)])}"
    settings = settings_of(command)
    configs = getattr(command.callback, "configs", tuple)()
    if shared := SHARED.get(configs):
        yield f"\nIts settings are those of {shared}, [below](#settings-of-{shared.replace(' ', '-')})."
    elif others := [key for key in settings if key not in {param.name for param in options}]:
        yield "\nSettings without an option:\n"
        yield from (setting(key, settings[key]) for key in others)


def usage(param: Any) -> str:
    """An argument in the first line."""
    name = param.metavar + "..." * (param.nargs == -1)
    return name if param.required else f"[{name}]"


def written(param: Any) -> str:
    """How an option is written: ``-o, --out OUT``."""
    names = ", ".join(sorted(param.opts, key=len))
    if param.secondary_opts:
        names = f"{names} / {', '.join(param.secondary_opts)}"
    return names if param.is_flag else f"{names} {param.metavar}"


def note(param: Any) -> list[str]:
    """Whether an option is needed, or its default where the help does not have it."""
    if param.required:
        return ["[required]"]
    return [] if param.default in (None, False) or callable(param.default) else [f"[default: {param.default}]"]


def setting(key: str, field: Any) -> str:
    """The line about one setting."""
    value, text = describe(field)
    return f"- `{key}={value}`: {' '.join(text.split())}"


def reference() -> str:
    """The page."""
    lines = [INTRODUCTION]
    for name, command in commands(get_command(app), "celldetr"):
        lines += section(name, command)
    for (config,), name in SHARED.items():
        lines.append(f"\n## Settings of {name}\n")
        lines += [setting(key, field) for key, field in config.settings()]
    lines.append(
        "\n## Settings of a cluster\n\nYAML for `celldetr predict --cluster FILE`: [scale](../how-to/scale.md).\n"
    )
    lines += [setting(key, field).replace("=", ": ", 1) for key, field in ClusterSettings.settings()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
