"""What holds after the actions of a journal: types, labels, struck-out and added nuclei."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from celldetr.errors import InputError
from celldetr.teach.actions import Action, Add, Box, Define, Label, Merge, Strike, Undo

Name = tuple[str, int]
"""Slide and ``cell_id``."""


@dataclass(frozen=True)
class TaughtType:
    """A type of the user's own: its name, ``#rrggbb``, and a key of the keyboard or nothing."""

    name: str
    colour: str
    key: str = ""


@dataclass(frozen=True)
class Labelled:
    """What was said of a found cell: its type (None: it is struck out), and the centre it had, level-0 px."""

    type: int | None
    centre: tuple[float, float]


@dataclass(frozen=True)
class Added:
    """A nucleus that was added: box in level-0 pixels."""

    slide: str
    box: Box
    type: int | None


@dataclass
class State:
    """Types by number; labelled and struck-out cells by name; added nuclei by the revision that added them."""

    types: dict[int, TaughtType] = field(default_factory=dict)
    labels: dict[Name, Labelled] = field(default_factory=dict)
    struck: dict[Name, Labelled] = field(default_factory=dict)
    added: dict[int, Added] = field(default_factory=dict)
    next_type: int = 0
    revision: int = 0

    def check(self, action: Action) -> None:
        """Raise InputError if an action makes no sense now."""
        needed = {number for number in action.used() if isinstance(number, int)}
        if isinstance(action, Merge):
            needed.add(action.type)
            if action.type == action.into:
                raise InputError(f"type {action.type} cannot be merged into itself")
        if isinstance(action, Define):
            if action.type not in (None, self.next_type):
                needed.add(action.type)
            for number, kind in self.types.items():
                if kind.name == action.name and number != action.type:
                    raise InputError(f"there is a type {action.name!r} already; choose another name, or merge")
        if isinstance(action, Undo) and not 1 <= action.of <= self.revision:
            raise InputError(f"no revision {action.of} to undo; the last is {self.revision}")
        if isinstance(action, Add) and not (action.box[0] < action.box[2] and action.box[1] < action.box[3]):
            raise InputError(f"box {action.box}: expected left, top, right, bottom")
        for number in sorted(needed - set(self.types)):
            raise InputError(f"there is no type {number}; it was merged, dropped or undone")

    def apply(self, revision: int, action: Action) -> None:
        """Do one action; what it needs and is not there, because that was undone, is left out."""
        self.revision = revision
        match action:
            case Define(type=int(number)):
                self.types[number] = TaughtType(action.name, action.colour, action.key)
                self.next_type = max(self.next_type, number + 1)
            case Merge() if action.type in self.types:
                del self.types[action.type]
                self._retype(action.type, action.into if action.into in self.types else None)
            case Label() if action.type is None or action.type in self.types:
                for slide, cell_id, *centre in action.cells:
                    self.labels.pop((slide, cell_id), None)
                    if action.type is not None:
                        self.labels[slide, cell_id] = Labelled(action.type, (centre[0], centre[1]))
                        self.struck.pop((slide, cell_id), None)
            case Strike():
                for slide, cell_id, *centre in action.cells:
                    self.struck.pop((slide, cell_id), None)
                    if action.struck:
                        self.struck[slide, cell_id] = Labelled(None, (centre[0], centre[1]))
                        self.labels.pop((slide, cell_id), None)
            case Add():
                kind = action.type if action.type in self.types else None
                self.added[revision] = Added(action.slide, action.box, kind)
            case _:
                pass

    def _retype(self, old: int, new: int | None) -> None:
        for name, label in list(self.labels.items()):
            if label.type == old:
                del self.labels[name]
                if new is not None:
                    self.labels[name] = Labelled(new, label.centre)
        for number, nucleus in self.added.items():
            if nucleus.type == old:
                self.added[number] = Added(nucleus.slide, nucleus.box, new)


def voided(actions: Iterable[Action]) -> set[int]:
    """Revisions of the actions that are undone, among actions of revisions 1, 2, ..."""
    gone: set[int] = set()
    for revision, action in reversed(list(enumerate(actions, start=1))):
        if isinstance(action, Undo) and revision not in gone:
            gone.add(action.of)
    return gone


def replay(actions: Sequence[Action]) -> State:
    """The state after all actions of a journal."""
    state = State()
    gone = voided(actions)
    for revision, action in enumerate(actions, start=1):
        if revision not in gone:
            state.apply(revision, action)
    # A number that was given is not given again, though its type is undone.
    given = [action.type for action in actions if isinstance(action, Define) and action.type is not None]
    state.next_type = max(given, default=-1) + 1
    state.revision = len(actions)
    return state
