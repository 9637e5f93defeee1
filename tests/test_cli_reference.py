"""docs/reference/cli.md is current, and every command in README and docs can be parsed by the commands as they are."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from celldetr.cli import app
from celldetr.cli.command import RENAMED, settings_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILES = [*PAGES, *sorted((ROOT / "src/celldetr/recipes").glob("*.yaml")), *sorted((ROOT / "examples").glob("*"))]


def commands(group: Any = None) -> Iterator[Any]:
    for command in (group or get_command(app)).commands.values():
        yield from commands(command) if hasattr(command, "commands") else [command]


def lines() -> Iterator[tuple[str, str]]:
    """The page and arguments of every line that runs the program, without comments, brackets and alternatives."""
    for page in FILES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for found in re.finditer(r"^(?: {4}|# {3})?(?:\w+=\S+ )*celldetr ((?:[a-z]|-)\S*.*)$", text, re.MULTILINE):
            line = re.split(r"\s+#|  +", found.group(1))[0] if " #" in found.group(1) else found.group(1)
            if not line.endswith("[OPTIONS]"):
                yield page.name, re.sub(r"\| \S+|[][]", "", line).strip()


def test_the_reference_is_current() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "cli_reference.py"))
    assert (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8") == script["reference"](), (
        "run `make docs-cli`"
    )


def test_every_setting_is_described() -> None:
    for command in commands():
        missing = [name for name, field in settings_of(command).items() if not field.description]
        assert missing == [], command.name


def test_every_option_says_how_its_value_is_written() -> None:
    for command in commands():
        for param in command.params:
            assert param.help, f"{command.name} {param.name}"
            assert param.metavar or param.name == "help" or getattr(param, "is_flag", False), (command.name, param.name)


@pytest.mark.parametrize(("page", "line"), sorted(set(lines())))
def test_commands_in_the_docs_can_be_parsed(page: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)
    command = get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"{page}: celldetr {line}"
        command = command.commands[name]
    if not hasattr(command, "commands"):
        command.make_context("celldetr", words)
    assert capsys.readouterr().err == ""  # no option of an earlier version


def test_renamed_options_are_understood_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    by_name = {command.name: command for command in commands()}
    for name, options in RENAMED.items():
        known = {text for param in by_name[name].params for text in param.opts}
        assert not set(options) & known
        assert {new[0] for new in options.values()} <= known
    export = by_name["export"].make_context("export", ["OUT/slide", "--to=csv"])
    assert export.params["format"] == "csv"
    assert capsys.readouterr().err == "note: --to is called --format now\n"
    sample = by_name["sample"].make_context("sample", ["a.svs", "-o", "SET", "--png", "--val", "0.2"])
    assert (sample.params["encoding"], sample.params["validation"]) == ("png", 0.2)
