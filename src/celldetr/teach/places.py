"""Labels find their cells: by slide and ``cell_id`` if the centre is the same, else by the centre.

Predicting a slide again renumbers its cells. A label whose number is another nucleus by now goes to the cell nearest to
where its cell was, within ``NEAR_UM``; where there is none, it is lost for this table, but stays in the journal.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.reader import CellTable, numbers
from celldetr.errors import InputError
from celldetr.search.collection import Collection, SlideCells
from celldetr.teach.actions import Cell
from celldetr.teach.state import Labelled, Name

NEAR_UM = 2.5  # the radius within which two detections are of one nucleus (``model.nms``)
SAME_PX = 0.5
LOST = -1
Cells = Sequence[tuple[int, int]]
"""Place of the slide in the collection and row in its table of each cell."""


class Places:
    """Numbers and centres of the cells of one slide."""

    def __init__(self, table: CellTable) -> None:
        self.name, self._mpp = table.name, table.mpp or 1.0
        cells = table.read(["cell_id", "x_px", "y_px"])
        self.ids = cells["cell_id"].to_numpy()
        self.centres = np.column_stack([numbers(cells, "x_px"), numbers(cells, "y_px")])
        self._order = np.argsort(self.ids, kind="stable")

    def named(self, rows: Sequence[int], slide: str) -> list[tuple[str, int, float, float]]:
        """Cells of rows as the journal names them. Raises InputError: there is no such row."""
        for row in rows:
            if not 0 <= row < len(self.ids):
                raise InputError(f"no row {row} of slide {slide!r}; it has {len(self.ids):,} cells")
        chosen = np.array(rows, np.int64)
        centres = np.round(self.centres[chosen], 2).tolist()
        return [(slide, number, x, y) for number, (x, y) in zip(self.ids[chosen].tolist(), centres, strict=True)]

    def rows(self, ids: Sequence[int], centres: Sequence[tuple[float, float]]) -> NDArray[np.int64]:
        """(n,) rows of n cells that had these numbers and centres (level-0 px); ``LOST`` where there is none."""
        if not len(ids) or not len(self.ids):
            return np.full(len(ids), LOST, np.int64)
        wanted, where = np.array(ids, np.int64), np.array(centres, np.float64)
        at = self._order[np.searchsorted(self.ids, wanted, sorter=self._order).clip(max=len(self.ids) - 1)]
        moved = (self.ids[at] != wanted) | (np.abs(self.centres[at] - where).max(axis=1) > SAME_PX)
        if moved.any():
            from scipy.spatial import KDTree

            distance, nearest = KDTree(self.centres).query(where[moved])
            at[moved] = np.where(distance * self._mpp <= NEAR_UM, nearest, LOST)
        return at.astype(np.int64)


@dataclass(frozen=True)
class Marked:
    """Labelled (or struck-out) cells that are in the tables: places of slides, rows, and types by number (-1: none)."""

    slides: NDArray[np.int64]
    rows: NDArray[np.int64]
    types: NDArray[np.int64]

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Place of the slide and row of each."""
        return list(zip(self.slides.tolist(), self.rows.tolist(), strict=True))


class Finder:
    """Cells of a collection by place and row, and as the journal names them. Safe from several threads."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._place = {slide.name: place for place, slide in enumerate(collection.slides)}
        self._places: dict[int, Places] = {}
        self._lock = threading.Lock()

    def slide(self, place: int) -> SlideCells:
        """A slide. Raises InputError: there is no such slide."""
        if not 0 <= place < len(self.collection.slides):
            raise InputError(f"no slide {place}; there are {len(self.collection.slides)}")
        return self.collection.slides[place]

    def places(self, place: int) -> Places:
        """Numbers and centres of the cells of a slide."""
        with self._lock:
            if place not in self._places:
                self._places[place] = Places(self.slide(place).table)
            return self._places[place]

    def named(self, cells: Cells) -> tuple[Cell, ...]:
        """Cells as the journal names them. Raises InputError: there is no such slide or row."""
        rows: dict[int, list[int]] = {}
        for place, row in cells:
            rows.setdefault(place, []).append(row)
        parts = [self.places(place).named(mine, self.slide(place).name) for place, mine in rows.items()]
        return tuple(cell for part in parts for cell in part)

    def marked(self, cells: Mapping[Name, Labelled], place: int | None = None) -> Marked:
        """Those of some cells that are in the tables, of all slides or of one, ordered by slide."""
        by_slide: dict[int, list[tuple[int, Labelled]]] = {}
        for (slide, number), label in cells.items():
            where = self._place.get(slide)
            if where is not None and place in (None, where):
                by_slide.setdefault(where, []).append((number, label))
        parts = [np.zeros((0, 3), np.int64)]
        for where, mine in sorted(by_slide.items()):
            rows = self.places(where).rows([number for number, _ in mine], [label.centre for _, label in mine])
            types = [-1 if label.type is None else label.type for _, label in mine]
            parts.append(np.column_stack([np.full(len(rows), where), rows, types])[rows != LOST])
        slides, found, kinds = np.concatenate(parts).T
        return Marked(slides, found, kinds)
