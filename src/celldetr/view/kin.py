"""The cells most like a cell, among all slides of the run, from embeddings in memory.

``celldetr similar`` reads every embedding from disk for each question. Here questions follow one another, so embeddings
are held (``view.embeddings``); slides that do not fit are streamed each time, or searched with the index that
``celldetr index`` made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.safe_io import is_file
from celldetr.search.collection import Collection, SlideCells
from celldetr.search.index import INDEX, MANIFEST, NeighbourIndex
from celldetr.search.nearest import EMPTY, Best, Query
from celldetr.view.embeddings import Embeddings

MOST = 200  # kin of a question
COLUMNS = ["cell_id", "x_px", "y_px", "type", "type_score"]
Scope = Literal["all", "here", "elsewhere"]


class Kin:
    """Answers questions about the cells of a collection; safe from several threads."""

    def __init__(self, collection: Collection, embeddings: Embeddings) -> None:
        self.collection, self.embeddings = collection, embeddings
        # Exact and as fast, where memory holds all.
        self._index = None if embeddings.complete else _index_of(collection)

    def nearest(self, place: int, row: int, k: int, scope: Scope) -> list[dict[str, Any]]:
        """The ``k`` cells most similar to one, the most similar first, as JSON values.

        Args:
            place: index of its slide.
            row: in the table.
            k: how many; fewer where there are no more.
            scope: all slides, its own only, or the others.

        Raises:
            InputError: an argument out of range, or an embedding that nothing is like.
        """
        slides = self.collection.slides
        if not (0 <= place < len(slides) and 0 <= row < slides[place].table.count):
            raise InputError(f"no row {row} of slide {place}")
        if not 1 <= k <= MOST or scope not in get_args(Scope):
            raise InputError(f"expected 1 to {MOST} kin of one of {', '.join(get_args(Scope))}, got {k} of {scope!r}")
        rows = np.array([row], np.int64)
        held = self.embeddings.of(place)
        vector = (slides[place].unit_embeddings(rows) if held is None else held.units(rows))[0]
        if not vector.any():
            raise InputError("the embedding of this cell is zero or not finite; nothing is like it")
        others = frozenset(range(len(slides))) - {place}
        skipped = {"all": frozenset[int](), "here": others, "elsewhere": frozenset({place})}[scope]
        query = Query("cell", vector, {place: rows}, {place: rows}, skipped)
        best = self._search(query, k) if self._index is None else self._index.search([query], k)
        return self._describe(best)

    def _search(self, query: Query, k: int) -> Best:
        best = Best(1, k)
        for place, slide in enumerate(self.collection.slides):
            if place in query.skipped:
                continue
            for start, similarity in self._similarities(place, slide, query.vector):
                rows = np.arange(start, start + len(similarity))
                for own in query.excluded.get(place, ()):
                    if start <= own < start + len(similarity):
                        similarity[own - start] = -np.inf
                least = np.partition(similarity, -k)[-k] if len(rows) > k else -np.inf
                near = (similarity >= least) & np.isfinite(similarity)
                best.offer(0, place, rows[near], similarity[near])
        return best

    def _similarities(
        self, place: int, slide: SlideCells, vector: NDArray[np.float32]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        held = self.embeddings.of(place)
        if held is not None:
            yield 0, held.similarity(vector)
        else:
            yield from ((start, block @ vector) for start, block in slide.blocks())

    def _describe(self, best: Best) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        ranked = zip(best.slide[0].tolist(), best.row[0].tolist(), best.similarity[0].tolist(), strict=True)
        wanted = [cell for cell in ranked if cell[0] != EMPTY]
        for place in {place for place, _, _ in wanted}:
            table = self.collection.slides[place].table
            mine = [(row, value) for where, row, value in wanted if where == place]
            mpp_x, mpp_y = table.mpp_xy or (1.0, 1.0)
            columns = table.take(np.array([row for row, _ in mine], np.int64), COLUMNS).to_pylist()
            for (row, value), cell in zip(mine, columns, strict=True):
                x, y = cell.pop("x_px") * mpp_x, cell.pop("y_px") * mpp_y
                found.append({"slide": place, "row": row, "similarity": round(value, 5), "x": x, "y": y, **cell})
        return sorted(found, key=lambda cell: -cell["similarity"])


def _index_of(collection: Collection) -> NeighbourIndex | None:
    """The index beside the cells. None if there is none, or none that can be used: then all cells are compared."""
    path = collection.home / INDEX
    if not is_file(path / MANIFEST):
        return None
    try:
        return NeighbourIndex(path, collection)
    except InputError:
        return None
