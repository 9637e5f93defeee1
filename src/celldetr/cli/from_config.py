"""Options made from config classes: one per field, described where the field is; ``--set`` and ``--config`` for all.

    @with_settings
    def predict(out: Out, options: Annotated[PredictOptions, Fields("tile", "tissue=--tissue/--all-tiles")]):
        ...

has the options ``--tile``, ``--tissue/--all-tiles``, ``--set KEY=VALUE`` and ``--config FILE``; the function receives a
validated ``PredictOptions``. An option wins over ``--set``, and that over the file.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from celldetr.config import Config, override, parse
from celldetr.config.base import T
from celldetr.errors import InputError, near
from celldetr.io.safe_io import expand_user, is_file, read_yaml

Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting of docs/reference/cli.md; repeat for more."),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file of settings; --set and the other options win over it."),
]


class Fields:
    """Marks a parameter of a command as a config, and names the fields that have an option of their own.

    Args:
        fields: names; the others are reached with ``--set`` and ``--config`` only. One whose option is not called
            ``--field-name`` has its declaration behind the name, e.g. ``"types=--map"`` or ``"model=--model,-m"``.
    """

    def __init__(self, *fields: str) -> None:
        parts = [field.partition("=") for field in fields]
        self.flags = {name: flag or f"--{name.replace('_', '-')}" for name, _, flag in parts}


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replace the parameters that ``Fields`` marks by options of their fields, ``--set`` and ``--config``."""
    configs: dict[str, type[Config]] = {}  # by parameter of the command
    flags: dict[str, str] = {}  # by field
    pairs: dict[str, str] = {}  # fields that are dictionaries, and what is expected of them
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        config, *marks = get_args(parameter.annotation) or (None,)
        if config is None or not isinstance(marks[0], Fields):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        configs[parameter.name] = config
        for name, declaration in marks[0].flags.items():
            flags[name] = declaration.split(",")[0].split("/")[0]
            field = config.model_fields[name]
            if _kind(field)[0] is dict:
                pairs[name] = f"{flags[name]} {field.title}"
            parameters.append(_keyword(name, _option(field, declaration)))
    parameters += [_keyword("assignments", Assignments), _keyword("config", SettingsFile)]

    @functools.wraps(command)
    def run(assignments: list[str] | None, config: Path | None, **given: Any) -> Any:
        values, origin = _read(assignments, config)
        known = {name for each in configs.values() for name in each.model_fields}
        for name in values:
            if name not in known:
                raise InputError(f"{origin}: unknown key {name!r}; {near(name, known)}")
        chosen = {name: value for name in flags if (value := given.pop(name)) not in (None, [], ())}
        chosen |= {name: read_pairs(chosen[name], expected) for name, expected in pairs.items() if name in chosen}
        for parameter, each in configs.items():
            own = {name: value for name, value in (values | chosen).items() if name in each.model_fields}
            given[parameter] = parse(each, own, origin, {name: flags[name] for name in chosen})
        return command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return has_settings(lambda: tuple(configs.values()))(run)


def _read(assignments: list[str] | None, file: Path | None) -> tuple[dict[str, Any], str]:
    """The settings of ``--config``, changed by ``--set``; and where they come from, for messages."""
    origin = " and ".join([str(file)] * bool(file) + ["--set"] * bool(assignments))
    return override(read_yaml(file) if file else {}, assignments or []), origin


def read_settings(config: type[T], assignments: list[str] | None, file: Path | None) -> T:
    """A config from ``--set`` and ``--config`` alone.

    Raises:
        InputError: an unknown key, or a value out of range.
    """
    return parse(config, *_read(assignments, file))


def has_settings(configs: Callable[[], tuple[type[Config], ...]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Say which configs ``--set`` and ``--config`` of a command are about, for messages and the reference."""

    def mark(command: Callable[..., Any]) -> Callable[..., Any]:
        command.configs = configs  # type: ignore[attr-defined]
        return command

    return mark


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    """A parameter that is None unless it is given."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _option(field: FieldInfo, declaration: str) -> Any:
    """The option of a field, as typer reads it. Values are converted by typer and checked by the config."""
    kind, arguments, _ = _kind(field)
    given: Any = kind
    if kind is Literal:
        given = type(arguments[0])
    elif kind is dict:
        given = list[str]
    elif kind is tuple:
        given = list[arguments[0]] if arguments[-1] is Ellipsis else tuple[arguments]  # type: ignore[valid-type]
    metavar, text = describe(field, declaration)
    option = typer.Option(*declaration.split(","), help=text, show_default=False, metavar=metavar)
    return Annotated[given | None, option]


def describe(field: FieldInfo, declaration: str = "") -> tuple[str | None, str]:
    """How a value of a field is written, and what it means, with default and bounds.

    Args:
        field: of a config.
        declaration: of its option, if it has one; what is said of a default depends on it.
    """
    kind, arguments, notes = _kind(field)
    metavar = {int: "INT", float: "NUMBER", bool: "true|false", dict: "NAME=NAME", str: "TEXT"}.get(kind, "VALUE")
    if kind is Literal:
        metavar = "|".join(map(str, arguments))
    elif kind is tuple and not declaration:
        metavar = "LIST"
    elif kind is tuple:
        metavar = "NAME" if arguments[-1] is Ellipsis else " ".join("N" for _ in arguments)
    if kind is bool and declaration:
        on, _, off = declaration.partition("/")
        notes = [f"default: {on if field.default else off}"] * bool(off)
    elif not field.is_required() and (default := field.get_default(call_default_factory=True)) not in (
        None,
        "",
        (),
        {},
    ):
        notes = [f"default: {_plain(default)}", *notes]
    text = f"{field.description}  [{'; '.join(notes)}]" if notes else str(field.description)
    return (None if kind is bool and declaration else field.title or metavar), text


def _plain(value: Any) -> str:
    """A default as YAML has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kind(field: FieldInfo) -> tuple[Any, tuple[Any, ...], list[str]]:
    """What a field holds beside None: a type, or ``Literal``, ``tuple`` or ``dict``; its arguments; its bounds."""
    annotation, metadata = field.annotation, list(field.metadata)
    while get_origin(annotation) in (Union, UnionType, Annotated):
        annotation, *rest = (kind for kind in get_args(annotation) if kind is not NoneType)
        metadata += [limit for info in rest if isinstance(info, FieldInfo) for limit in info.metadata]
    words = {"ge": "{} or more", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    limits = {name: getattr(limit, name) for limit in metadata for name in words if hasattr(limit, name)}
    if {"ge", "le"} <= set(limits):
        bounds = [f"{limits['ge']} to {limits['le']}"]
    else:
        bounds = [words[name].format(value) for name, value in limits.items()]
    return get_origin(annotation) or annotation, get_args(annotation), bounds


def read_pairs(texts: list[str], expected: str) -> dict[str, str]:
    """``NAME=NAME`` of a repeated option, also with commas between, or YAML files of such pairs, as a dictionary."""
    pairs: dict[str, str] = {}
    for text in texts:
        path = expand_user(Path(text))
        if is_file(path):
            pairs |= {str(name): "" if value is None else value for name, value in read_yaml(path).items()}
            continue
        sign = "=" if "=" in text else ":"  # `evaluate --types` of 0.1.0 took NAME:NAME
        parts = text.split(",") if all(sign in part for part in text.split(",")) else [text]  # names may have commas
        for part in parts:
            name, found, value = part.partition(sign)
            if not found:
                raise InputError(f"{text!r}: expected {expected}, or a YAML file of such pairs")
            pairs[name.strip()] = value.strip()
    return pairs
