"""Queries, the k most similar cells of each, kept while cells are streamed past, and the search through all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from celldetr.search.collection import Collection, Rows

EMPTY = -1


@dataclass(frozen=True)
class Query:
    """A vector whose nearest neighbours are searched.

    Attributes:
        name: in tables and pictures.
        vector: (d,) of length 1.
        cells: index of a slide -> rows of the cells that it is made of; empty where these are all cells of a type.
        excluded: index of a slide -> sorted rows that are no neighbours.
        skipped: indices of the slides that are not searched.
    """

    name: str
    vector: NDArray[np.float32]
    cells: Mapping[int, Rows] = field(default_factory=dict)
    excluded: Mapping[int, Rows] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()


class Best:
    """The best ``k`` of each of Q queries so far.

    Attributes:
        similarity: (Q, k) falling; -inf where there is none yet.
        slide: (Q, k) index of the slide, -1 where there is none.
        row: (Q, k) in its table.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self.similarity = np.full((queries, k), -np.inf, np.float32)
        self.slide = np.full((queries, k), EMPTY, np.int64)
        self.row = np.full((queries, k), EMPTY, np.int64)

    def forget(self, query: int) -> None:
        """Begin anew for a query."""
        self.similarity[query], self.slide[query], self.row[query] = -np.inf, EMPTY, EMPTY

    def count(self, query: int) -> int:
        """How many cells a query has so far."""
        return int((self.row[query] != EMPTY).sum())

    def offer(self, query: int, slide: int, rows: Rows, similarity: NDArray[np.float32]) -> None:
        """Consider (n,) cells of a slide for a query; of equals the earlier in slide and row stay."""
        if len(rows) > self.k:
            least = np.partition(similarity, len(rows) - self.k)[len(rows) - self.k]
            rows, similarity = rows[similarity >= least], similarity[similarity >= least]
        similarities = np.concatenate([self.similarity[query], similarity])
        slides = np.concatenate([self.slide[query], np.full(len(rows), slide)])
        rows = np.concatenate([self.row[query], rows])
        order = np.lexsort((rows, slides, -similarities))[: self.k]
        self.similarity[query] = similarities[order]
        self.slide[query] = slides[order]
        self.row[query] = rows[order]


def search_all(collection: Collection, queries: Sequence[Query], k: int) -> Best:
    """Compare with every cell."""
    best = Best(len(queries), k)
    for place, slide in enumerate(collection.slides):
        asking = [i for i, query in enumerate(queries) if place not in query.skipped]
        if not asking:
            continue
        vectors = np.stack([queries[i].vector for i in asking])
        for start, block in slide.blocks():
            for i, similarity in zip(asking, vectors @ block.T, strict=True):
                rows = np.arange(start, start + len(block))
                excluded = queries[i].excluded.get(place)
                if excluded is not None:
                    low, high = np.searchsorted(excluded, (start, start + len(block)))
                    rows = np.delete(rows, excluded[low:high] - start)
                    similarity = np.delete(similarity, excluded[low:high] - start)
                best.offer(i, place, rows, similarity)
    return best
