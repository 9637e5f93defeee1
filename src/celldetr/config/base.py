"""What every config has in common: an immutable pydantic model that refuses keys it does not know.

``Field(default, bounds, description=...)`` is the only place where a setting is described and has its default: options
of the command line, its help and docs/reference/cli.md are made from it. A ``title`` is how a value is written there
(metavar).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from celldetr.errors import InputError, near
from celldetr.io.safe_io import parse_yaml, shown


def _printable(name: str) -> str:
    if not name.isprintable() or not 0 < len(name) <= 100:
        raise ValueError(f"{shown(name)}: expected a name of 1 to 100 printable characters")
    return name


Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["auto", "32", "bf16"]
Mpp = Annotated[float, Field(ge=0.05, le=10)]  # micrometres per pixel that a microscope can have
ImageMpp = Annotated[
    Mpp | None, Field(description="Micrometres per pixel of the images, instead of what they or their card say.")
]
SlideMpp = Annotated[
    float | None, Field(description="Micrometres per pixel at full resolution, instead of what the file says.")
]
# Types become columns, map keys and legends: one line of printable text.
TypeName = Annotated[str, AfterValidator(_printable)]


class Config(BaseModel):
    """Base of all settings: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def settings(cls, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
        """Every field and those of the configs it holds, with dotted names."""
        for name, field in cls.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
                yield from field.annotation.settings(f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", field


T = TypeVar("T", bound=Config)


def _explain(error: ValidationError, root: type[BaseModel], origin: str, flags: Mapping[str, str]) -> str:
    """One line for the first thing wrong in ``error``, with the near names of an unknown key."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        model: type[BaseModel] = root
        for part in path[:-1]:
            annotation = model.model_fields[part].annotation if part in model.model_fields else None
            inner = [annotation, *getattr(annotation, "__args__", ())]
            model = next((m for m in inner if isinstance(m, type) and issubclass(m, BaseModel)), model)
        return f"{origin}: unknown key {'.'.join(path)!r}; {near(path[-1], model.model_fields)}"
    value = first.get("input")
    got = "" if isinstance(value, dict) else f", got {shown(value)}"
    message = first["msg"].removeprefix("Value error, ")
    if path and path[0] in flags:
        return f"{' '.join([flags[path[0]], *path[1:]])}: {message}{got}"
    if not path and not origin:
        return message
    return f"{origin or 'settings'}: {'.'.join(path) or 'settings'}: {message}{got}"


def parse(cls: type[T], values: Mapping[str, Any], origin: str, flags: Mapping[str, str] | None = None) -> T:
    """Build a config from plain values.

    Args:
        cls: the config class.
        values: what was read, nested dictionaries and lists.
        origin: where it came from, for the message; "": all was given by flags.
        flags: how values that came from elsewhere were given, by key.

    Raises:
        InputError: an unknown key (near ones are named), a missing one, or a value out of range.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(error, cls, origin, flags or {})) from None


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with changes put in; groups of settings are merged key by key."""
    merged = dict(values)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply ``dotted.key=value`` assignments (values are YAML) to nested settings; returns a changed copy.

    Raises:
        InputError: an assignment without ``=``, or one that goes through a value that is not a mapping.
    """
    out = deepcopy(dict(values))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise InputError(f"{assignment!r}: expected key=value, e.g. training.steps=2000")
        node = out
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise InputError(f"{assignment!r}: {parent!r} is not a group of settings")
        try:
            node[last] = parse_yaml(text)
        except ValueError:
            raise InputError(f"{assignment!r}: {text!r} is not a YAML value") from None
    return out
