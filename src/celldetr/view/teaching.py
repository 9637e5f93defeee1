"""Types of one's own, for the page: what a browser may do to the journal of a run, and what it sees of it.

The journal is opened when somebody first teaches, or looks at a run that was taught: looking alone writes nothing.
"""

from __future__ import annotations

import shlex
import threading
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from threadpoolctl import threadpool_limits

from celldetr.cells.clusters import CLUSTER
from celldetr.cells.palette import hex_colour, new_colour, parse_colour
from celldetr.config.base import Config, TypeName, parse
from celldetr.errors import InputError
from celldetr.search.collection import Collection, Rows
from celldetr.teach.actions import Box, Colour
from celldetr.teach.journal import JOURNAL
from celldetr.teach.session import FOLDER, Teaching
from celldetr.view.embeddings import Embeddings

HEAD = "head"  # folder of the saved head, beside the journal
PROPOSED = 12
PER_CLUSTER = 100  # cells of a cluster that are labelled when it is given a type
NOTHING: dict[str, Any] = {"revision": 0, "types": [], "struck": 0, "added": 0, "lesson": None}
UNKNOWN = 0xFFFF
Cell = tuple[int, int]
"""Place of the slide, row of its table."""


class _Said(Config):
    """What a browser says; ``base`` is the revision it has seen, ``client`` its name."""

    base: int
    client: Annotated[str, Field(min_length=1, max_length=64)]


class Define(_Said):
    """Make a type (``type`` None), or change one; without a ``colour`` it gets the one that pictures give its name."""

    action: Literal["define"]
    type: int | None = None
    name: TypeName
    colour: Colour | None = None
    key: Annotated[str, Field(max_length=1)] = ""


class Merge(_Said):
    """Make a type part of another; ``into`` None drops it with its labels."""

    action: Literal["merge"]
    type: int
    into: int | None = None


class Label(_Said):
    """Label cells; ``type`` None takes their labels away."""

    action: Literal["label"]
    type: int | None
    cells: tuple[Cell, ...]


class Cluster(_Said):
    """Label ``PER_CLUSTER`` random cells of a cluster."""

    action: Literal["cluster"]
    type: int
    cluster: int


class Strike(_Said):
    """Strike cells out, or take that back."""

    action: Literal["strike"]
    cells: tuple[Cell, ...]
    struck: bool = True


class Add(_Said):
    """Add a nucleus; ``box`` is xyxy in um."""

    action: Literal["add"]
    slide: int
    box: Box
    type: int | None = None


class Undo(_Said):
    """Undo this browser's last action."""

    action: Literal["undo"]


Said = Define | Merge | Label | Cluster | Strike | Add | Undo
KINDS: dict[str, type[Said]] = {
    "define": Define, "merge": Merge, "label": Label, "cluster": Cluster, "strike": Strike, "add": Add, "undo": Undo,
}  # fmt: skip


class Taught:
    """The teaching of a run, as routes need it; safe from several threads."""

    def __init__(self, collection: Collection, embeddings: Embeddings) -> None:
        self.collection, self._embeddings = collection, embeddings
        self._lock = threading.Lock()
        self._teaching: Teaching | None = None

    def close(self) -> None:
        """Let others teach."""
        if self._teaching is not None:
            self._teaching.close()

    def describe(self) -> dict[str, Any]:
        """As of ``Teaching.describe``; nothing where nobody has taught."""
        found = self._found()
        return NOTHING if found is None else found.describe()

    def marks(self, place: int) -> dict[str, Any]:
        """As of ``Teaching.marks``, boxes in um."""
        found = self._found()
        if found is None:
            return {"rows": [], "types": [], "struck": [], "added": []}
        marks = found.marks(place)
        scale = self._mpp(place) * 2
        for nucleus in marks["added"]:
            nucleus["box"] = [round(side * factor, 2) for side, factor in zip(nucleus["box"], scale, strict=True)]
        return marks

    def typed(self, place: int) -> NDArray[np.uint16]:
        """(N,) index of each cell's type in the list of ``describe``; ``UNKNOWN`` of none."""
        found = self._found()
        if found is None:
            raise InputError("nothing was taught yet")
        with threadpool_limits(1):  # products are small: threads would mostly wait
            numbers, _ = found.typed(place)
        index = np.full(UNKNOWN + 1, UNKNOWN, np.uint16)
        for at, number in enumerate(found.state.types):
            index[number] = at
        return index[numbers]

    def act(self, values: Any) -> dict[str, Any]:
        """Do what a browser says, and describe what holds then.

        Raises:
            ConflictError: another browser has changed the same.
            InputError: it is not understood, or makes no sense now.
        """
        name = values.get("action") if isinstance(values, dict) else None
        if name not in KINDS:
            raise InputError(f"no action {name!r}; expected one of {', '.join(KINDS)}")
        said, teaching = parse(KINDS[name], values, "the page"), self._open()
        of: dict[str, Any] = {"base": said.base, "client": said.client}
        match said:
            case Define():
                taken = [parse_colour(kind.colour) for kind in teaching.state.types.values()]
                colour = said.colour or hex_colour(new_colour(said.name, taken))
                teaching.define(said.name, colour, said.key, type=said.type, **of)
            case Merge():
                teaching.merge(said.type, said.into, **of)
            case Label():
                teaching.label(said.cells, said.type, **of)
            case Cluster():
                teaching.label(self._some_of(said.cluster), said.type, **of)
            case Strike():
                teaching.strike(said.cells, said.struck, **of)
            case Add():
                x, y = self._mpp(said.slide)
                left, top, right, bottom = said.box
                teaching.add(said.slide, (left / x, top / y, right / x, bottom / y), said.type, **of)
            case Undo():
                teaching.undo(**of)
        return teaching.describe()

    def learn(self) -> dict[str, Any]:
        """Learn from what was said so far, and describe it."""
        teaching = self._open()
        with threadpool_limits(1):  # as in ``typed``
            teaching.learn()
        return teaching.describe()

    def propose(self) -> list[dict[str, int]]:
        """Cells worth asking about next."""
        return [{"slide": place, "row": row} for place, row in self._open().propose(PROPOSED)]

    def save(self) -> dict[str, str]:
        """Save the head beside the journal; where it is, and the command that types the run by it."""
        teaching = self._open()
        folder = teaching.folder / HEAD
        teaching.save(folder, overwrite=True)
        command = ["celldetr", "retype", str(self.collection.home), "--head", str(folder)]
        return {"folder": str(folder), "command": shlex.join(command)}

    def _found(self) -> Teaching | None:
        return self._open() if self._teaching or self._journal().exists() else None

    def _journal(self) -> Path:
        return self.collection.home / FOLDER / JOURNAL

    def _open(self) -> Teaching:
        with self._lock:
            if self._teaching is None:
                self._teaching = Teaching(self.collection, None, self._embeddings.blocks, self._embeddings.units)
                # Cross-validation needs it, and it takes longer to import than all the rest of the first lesson.
                threading.Thread(target=import_module, args=("sklearn.model_selection",), daemon=True).start()
            return self._teaching

    def _mpp(self, place: int) -> tuple[float, float]:
        if not 0 <= place < len(self.collection.slides):
            raise InputError(f"no slide {place}")
        return self.collection.slides[place].table.mpp_xy or (1.0, 1.0)

    def _some_of(self, cluster: int) -> list[Cell]:
        """Random cells of a cluster, of all slides."""
        parts: list[Rows] = []
        for place, slide in enumerate(self.collection.slides):
            if CLUSTER not in slide.table.columns:
                raise InputError(f"{slide.name}: has no clusters; make them with celldetr cluster")
            rows = np.flatnonzero(slide.table.read([CLUSTER])[CLUSTER].to_numpy() == cluster)
            parts.append(np.column_stack([np.full(len(rows), place), rows]))
        cells = np.concatenate(parts)
        if not len(cells):
            raise InputError(f"no cells of cluster {cluster}")
        chosen = np.random.default_rng(0).choice(len(cells), min(PER_CLUSTER, len(cells)), replace=False)
        return [(int(place), int(row)) for place, row in cells[np.sort(chosen)]]
