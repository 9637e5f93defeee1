"""Teaching a run: labels go into the journal, a head is learned from them, and every cell is typed by it.

Cells are asked about and labelled by the place of their slide in the collection and their row in its table. Safe from
several threads.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.search.collection import Collection, Rows, SlideCells, sample_rows
from celldetr.teach.actions import Action, Add, Box, Define, Label, Merge, Strike
from celldetr.teach.crossval import Check, cross_validate, squares_of
from celldetr.teach.features import Blocks, Units, columns_of, feature_blocks, feature_rows
from celldetr.teach.head import Features, LinearHead, Scaling
from celldetr.teach.head_file import HeadCard, HeadType, save_head
from celldetr.teach.journal import Journal
from celldetr.teach.places import Cells, Finder, Marked
from celldetr.teach.proposals import propose
from celldetr.teach.state import State

FOLDER = "teach"  # in the collection's home
POOL = 50_000  # cells of all slides among which those are chosen that are asked about
NO_TYPE = 65_535  # of a cell that is struck out, or of all while nothing is learned


@dataclass(frozen=True)
class Lesson:
    """What was learned from the labels of a revision.

    Attributes:
        revision: of the journal.
        types: (K,) numbers of the types, in the order of the head's outputs.
        counts: (K,) labels.
        head: None: there is no label.
        check: cross-validation.
    """

    revision: int
    types: tuple[int, ...]
    counts: NDArray[np.int64]
    head: LinearHead | None
    check: Check


class Teaching:
    """One run that is taught; close it, or use it as a context manager."""

    def __init__(
        self,
        collection: Collection,
        folder: Path | None = None,
        vectors: Blocks = SlideCells.blocks,
        units: Units = SlideCells.unit_embeddings,
    ) -> None:
        """Open the journal of a run.

        Args:
            collection: the cells.
            folder: of the journal; None: ``teach`` in the collection's home.
            vectors, units: where unit vectors come from, of all cells and of some; those who hold them in memory spare
                the disk, from which a million take seconds.

        Raises:
            InputError: somebody else teaches this run at the moment, or the journal is damaged.
        """
        self.collection, self.folder = collection, folder or collection.home / FOLDER
        self._columns = columns_of(collection)
        self._vectors, self._units, self._lock = vectors, units, threading.RLock()
        self._finder = Finder(collection)
        self._features: dict[tuple[int, int], Features] = {}  # of labelled cells
        self._lesson: Lesson | None = None
        self._journal = Journal(self.folder)

    def __enter__(self) -> Teaching:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others teach."""
        self._journal.close()

    @property
    def state(self) -> State:
        """What holds now."""
        return self._journal.state

    def define(self, name: str, colour: str, key: str = "", *, type: int | None = None, base: int, client: str) -> int:
        """Make a type, or change one; returns its number.

        ``base`` and ``client``, here and below, are as of ``Journal.append``, which says what is raised.
        """
        with self._lock:
            number = self.state.next_type if type is None else type
            self._journal.append(Define(type=type, name=name, colour=colour, key=key), base, client)
            return number

    def merge(self, type: int, into: int | None, *, base: int, client: str) -> None:
        """Make a type part of another; None drops it with its labels."""
        self._append(Merge(type=type, into=into), base, client)

    def label(self, cells: Cells, type: int | None, *, base: int, client: str) -> None:
        """Say which type cells are of; None takes their labels away."""
        self._append(Label(type=type, cells=self._finder.named(cells)), base, client)

    def strike(self, cells: Cells, struck: bool = True, *, base: int, client: str) -> None:
        """Say that cells are none, or that they are."""
        self._append(Strike(struck=struck, cells=self._finder.named(cells)), base, client)

    def add(self, place: int, box_px: Box, type: int | None, *, base: int, client: str) -> None:
        """Add a nucleus that was not found; ``box_px`` is xyxy in level-0 pixels, see ``box_around``."""
        self._append(Add(slide=self._finder.slide(place).name, box=box_px, type=type), base, client)

    def undo(self, *, base: int, client: str) -> None:
        """Undo the client's last action that is not undone."""
        with self._lock:
            self._journal.undo(base, client)

    def box_around(self, place: int, x_px: float, y_px: float) -> Box:
        """A box of the median size of the slide's cells around a point."""
        table = self._finder.slide(place).table
        if not table.count:
            raise InputError("there are no cells whose size a new one could have; draw a box")
        sizes = table.read(["w_px", "h_px"])
        w, h = (float(np.median(sizes[name].to_numpy())) / 2 for name in ("w_px", "h_px"))
        return (x_px - w, y_px - h, x_px + w, y_px + h)

    def describe(self) -> dict[str, Any]:
        """Revision, types with their numbers of labels, and what was last learned, as JSON values."""
        with self._lock:
            state = self.state
            labels = [label.type for label in state.labels.values()]
            return {
                "revision": state.revision,
                "types": [
                    {"type": number, "name": kind.name, "colour": kind.colour, "key": kind.key,
                     "labels": labels.count(number)}
                    for number, kind in state.types.items()
                ],
                "struck": len(state.struck),
                "added": len(state.added),
                "lesson": None if self._lesson is None else _lesson(self._lesson),
            }  # fmt: skip

    def marks(self, place: int) -> dict[str, Any]:
        """What was said of one slide, as JSON values: rows and types of its labelled cells, rows that are struck out,
        added nuclei (their ``box`` in level-0 pixels)."""
        with self._lock:
            name = self._finder.slide(place).name
            labels, struck = (self._finder.marked(cells, place) for cells in (self.state.labels, self.state.struck))
            added = [
                {"number": number, "box": nucleus.box, "type": nucleus.type}
                for number, nucleus in self.state.added.items()
                if nucleus.slide == name
            ]
            return {
                "rows": labels.rows.tolist(),
                "types": labels.types.tolist(),
                "struck": struck.rows.tolist(),
                "added": added,
            }

    def learn(self) -> Lesson:
        """Learn from all labels, and check by cross-validation; at once, if nothing has changed."""
        with self._lock:
            if self._lesson is not None and self._lesson.revision == self.state.revision:
                return self._lesson
            types = tuple(sorted(self.state.types))
            marked = self._finder.marked(self.state.labels)
            codes = np.searchsorted(types, marked.types) if types else marked.types
            features = self._features_of(marked)
            head = LinearHead.fit(features, codes, len(types), self._scaling) if len(codes) else None
            centres = [self._finder.places(s).centres[r] for s, r in zip(marked.slides, marked.rows, strict=True)]
            mpp = np.array([self.collection.slides[s].table.mpp or 1.0 for s in marked.slides])
            squares = squares_of(marked.slides, np.array(centres).reshape(-1, 2) * mpp[:, None])
            check = cross_validate(features, codes, len(types), squares, self._scaling)
            counts = np.bincount(codes, minlength=len(types))
            self._lesson = Lesson(self.state.revision, types, counts, head, check)
            return self._lesson

    def typed(self, place: int) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
        """The type of every cell of a slide by what was last learned, and its probability.

        Returns:
            (N,) numbers of types, ``NO_TYPE`` where there is none, and (N,). Cells that the user has labelled have
            their label, with probability 1.
        """
        lesson, slide = self.learn(), self._finder.slide(place)
        codes, probability = np.full(slide.table.count, NO_TYPE, np.uint16), np.zeros(slide.table.count, np.float32)
        if lesson.head is None:
            return codes, probability
        numbers = np.array(lesson.types, np.uint16)
        for start, features in feature_blocks(slide, self._columns, self._vectors):
            found = lesson.head.probabilities(features)
            best = found.argmax(1)
            codes[start : start + len(best)] = numbers[best]
            probability[start : start + len(best)] = found[np.arange(len(best)), best]
        with self._lock:
            said, struck = (self._finder.marked(cells, place) for cells in (self.state.labels, self.state.struck))
        codes[said.rows], probability[said.rows] = said.types, 1
        codes[struck.rows], probability[struck.rows] = NO_TYPE, 0
        return codes, probability

    def propose(self, count: int, place: int | None = None) -> list[tuple[int, int]]:
        """Cells worth asking about next, of all slides or of one: those the head is unsure of, different ones."""
        lesson = self.learn()
        with self._lock:
            slides, rows, features = self._pool
            said, struck = (self._finder.marked(cells) for cells in (self.state.labels, self.state.struck))
            known = set(said.cells) | set(struck.cells)
            free = np.array([cell not in known for cell in zip(slides.tolist(), rows.tolist(), strict=True)], bool)
            free &= True if place is None else slides == place
            at = np.flatnonzero(free)
            answered = np.concatenate([self._features_of(said), self._features_of(struck)])
        chosen = at[propose(features[at], lesson.head, self._scaling, answered, count)]
        return list(zip(slides[chosen].tolist(), rows[chosen].tolist(), strict=True))

    def save(self, folder: Path, *, overwrite: bool = False) -> HeadCard:
        """Save what was learned as a head; see ``save_head``."""
        lesson = self.learn()
        if lesson.head is None:
            raise InputError("no cell is labelled yet: there is no head to save")
        model = self.collection.slides[0].table.run.get("model")
        kinds = [self.state.types[number] for number in lesson.types]
        types = tuple(
            HeadType(name=kind.name, colour=kind.colour, key=kind.key, labels=int(count), f1=_number(f1))
            for kind, count, f1 in zip(kinds, lesson.counts, lesson.check.f1, strict=True)
        )
        card = HeadCard(
            types=types,
            embedding_dim=self.collection.dim,
            columns=self._columns,
            model=self.collection.model,
            model_name=model.get("name") if isinstance(model, dict) else None,
            macro_f1=_number(lesson.check.macro_f1),
            slides=tuple(sorted({slide for slide, _ in self.state.labels})),
        )
        return save_head(folder, lesson.head, card, overwrite=overwrite)

    def _append(self, action: Action, base: int, client: str) -> None:
        with self._lock:
            self._journal.append(action, base, client)

    def _features_of(self, cells: Marked) -> Features:
        keys = cells.cells
        for place in np.unique(cells.slides).tolist():
            new = np.array(
                [row for where, row in keys if where == place and (where, row) not in self._features], np.int64
            )
            for row, features in zip(
                new.tolist(), feature_rows(self._finder.slide(place), new, self._columns, self._units), strict=True
            ):
                self._features[place, row] = features
        if not keys:
            return np.zeros((0, self.collection.dim + len(self._columns)), np.float32)
        return np.stack([self._features[key] for key in keys])

    @cached_property
    def _pool(self) -> tuple[Rows, Rows, Features]:
        """Slides, rows and features of ``POOL`` random cells of all slides."""
        rows = sample_rows(self.collection, POOL, 0)
        slides = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
        parts = [
            feature_rows(slide, some, self._columns, self._units)
            for slide, some in zip(self.collection.slides, rows, strict=True)
        ]
        return slides, np.concatenate(rows), np.concatenate(parts)

    @cached_property
    def _scaling(self) -> Scaling:
        return Scaling.of(self._pool[2])


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _lesson(lesson: Lesson) -> dict[str, Any]:
    return {
        "revision": lesson.revision,
        "types": list(lesson.types),
        "labels": lesson.counts.tolist(),
        "macro_f1": _number(lesson.check.macro_f1),
        "f1": [_number(value) for value in lesson.check.f1],
        "confusion": lesson.check.confusion.tolist(),
    }
