"""The k most similar of many cells, kept while they are streamed past; and the search that compares with every one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from celldetr.search.collection import Collection, Rows

Excluded = Sequence[Mapping[int, Rows]]  # of each query: place of a slide -> sorted rows that are not wanted
NOTHING = -1


@dataclass
class Best:
    """The best ``k`` of each of Q queries so far.

    Attributes:
        similarity: (Q, k) falling; -inf where there is none yet.
        slide: (Q, k) place of the slide, -1 where there is none.
        row: (Q, k) of its table.
    """

    queries: int
    k: int
    similarity: NDArray[np.float32] = field(init=False)
    slide: NDArray[np.int64] = field(init=False)
    row: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.similarity = np.empty((self.queries, self.k), np.float32)
        self.slide = np.empty((self.queries, self.k), np.int64)
        self.row = np.empty((self.queries, self.k), np.int64)
        self.forget(range(self.queries))

    def forget(self, queries: Sequence[int]) -> None:
        """Begin anew for some queries."""
        at = list(queries)
        self.similarity[at], self.slide[at], self.row[at] = -np.inf, NOTHING, NOTHING

    def count(self, query: int) -> int:
        """How many cells a query has so far."""
        return int((self.row[query] != NOTHING).sum())

    def offer(self, query: int, slide: int, rows: Rows, similarity: NDArray[np.float32]) -> None:
        """Consider (n,) cells of a slide for a query; of equals the earlier in slide and row stay."""
        if len(rows) > self.k:
            limit = np.partition(similarity, len(rows) - self.k)[len(rows) - self.k]
            keep = similarity >= limit
            rows, similarity = rows[keep], similarity[keep]
        likeness = np.concatenate([self.similarity[query], similarity])
        slides = np.concatenate([self.slide[query], np.full(len(rows), slide)])
        at = np.concatenate([self.row[query], rows])
        order = np.lexsort((at, slides, -likeness))[: self.k]
        self.similarity[query], self.slide[query], self.row[query] = likeness[order], slides[order], at[order]


def search_all(
    collection: Collection, queries: NDArray[np.float32], k: int, excluded: Excluded, skipped: Sequence[set[int]]
) -> Best:
    """Compare with every cell.

    Args:
        collection: the cells.
        queries: (Q, d) unit vectors.
        k: neighbours a query.
        excluded: rows that are no neighbours, of each query.
        skipped: slides that are not searched, of each query.
    """
    best = Best(len(queries), k)
    for place, slide in enumerate(collection.slides):
        asking = [i for i in range(len(queries)) if place not in skipped[i]]
        if not asking:
            continue
        for start, vectors in slide.blocks():
            likeness = queries[asking] @ vectors.T
            for line, query in zip(likeness, asking, strict=True):
                rows = np.arange(start, start + len(vectors))
                out = excluded[query].get(place)
                if out is not None:
                    low, high = np.searchsorted(out, (start, start + len(vectors)))
                    rows = np.delete(rows, out[low:high] - start)
                    line = np.delete(line, out[low:high] - start)
                best.offer(query, place, rows, line)
    return best
