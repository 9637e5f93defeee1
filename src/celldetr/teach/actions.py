"""What can be taught in one batch. Cells are named by slide and ``cell_id``; a centre tells when that has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from celldetr.config.base import Config, TypeName, parse
from celldetr.errors import InputError, near

Colour = Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]
Cell = tuple[str, int, float, float]
"""Slide, ``cell_id``, and the centre in level-0 pixels."""
Box = tuple[float, float, float, float]
"""xyxy, level-0 pixels."""
Key = tuple[str, ...] | tuple[str, int]


class _Action(Config):
    def changed(self) -> frozenset[Any]:
        """The cells and types that it changes."""
        return frozenset()

    def used(self) -> frozenset[Any]:
        """The types that it needs as they are."""
        return frozenset()


class Define(_Action):
    """Make a type, or give one another name, colour or key of the keyboard."""

    action: Literal["define"] = "define"
    type: int | None = None  # None: a new one
    name: TypeName
    colour: Colour
    key: Annotated[str, Field(max_length=1)] = ""

    def changed(self) -> frozenset[Any]:
        """The type, if it is there already."""
        return frozenset() if self.type is None else frozenset({self.type})


class Merge(_Action):
    """Make a type part of another, or drop it with its labels (None)."""

    action: Literal["merge"] = "merge"
    type: int
    into: int | None = None

    def changed(self) -> frozenset[Any]:
        """The type that is no more."""
        return frozenset({self.type})

    def used(self) -> frozenset[Any]:
        """The one that stays."""
        return frozenset() if self.into is None else frozenset({self.into})


class Label(_Action):
    """Say which type cells are of; None takes their labels away."""

    action: Literal["label"] = "label"
    type: int | None
    cells: tuple[Cell, ...]

    def changed(self) -> frozenset[Any]:
        """The cells."""
        return frozenset(cell[:2] for cell in self.cells)

    def used(self) -> frozenset[Any]:
        """The type."""
        return frozenset() if self.type is None else frozenset({self.type})


class Strike(_Action):
    """Say that cells are none, or (``struck`` false) that they are."""

    action: Literal["strike"] = "strike"
    struck: bool = True
    cells: tuple[Cell, ...]

    def changed(self) -> frozenset[Any]:
        """The cells."""
        return frozenset(cell[:2] for cell in self.cells)


class Add(_Action):
    """Add a nucleus that was not found; its number is the revision of this action, undoing it removes it."""

    action: Literal["add"] = "add"
    slide: str
    box: Box
    type: int | None = None

    def used(self) -> frozenset[Any]:
        """The type."""
        return frozenset() if self.type is None else frozenset({self.type})


class Undo(_Action):
    """Take the action of a revision back; of an undoing, do it again."""

    action: Literal["undo"] = "undo"
    of: int


Action = Define | Merge | Label | Strike | Add | Undo
ACTIONS: Mapping[str, type[Define | Merge | Label | Strike | Add | Undo]] = {
    "define": Define,
    "merge": Merge,
    "label": Label,
    "strike": Strike,
    "add": Add,
    "undo": Undo,
}


def as_action(values: Mapping[str, Any], origin: str) -> Action:
    """An action from JSON values. Raises InputError: there is no such action, or it is not written like this."""
    name = values.get("action")
    if name not in ACTIONS:
        raise InputError(f"{origin}: no action {name!r}; {near(str(name), ACTIONS)}")
    return parse(ACTIONS[str(name)], values, origin)
