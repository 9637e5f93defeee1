"""The embeddings of a run in memory, as float16 as they are in the tables: 256 MB for a million cells of 128 numbers.

They are read in the background, once the page is drawn and asks for it, so that nothing waits for them that can do
without. Whoever needs those of a slide waits for that slide.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from celldetr.cells.schema import embedding_matrix
from celldetr.errors import InputError
from celldetr.search.collection import Collection, SlideCells
from celldetr.search.half import similarities

BLOCK = 2048  # cells; their float32 numbers stay in the cache, and are made three times as fast
HELD = 2**30  # bytes: four million cells of 128 numbers


@dataclass(frozen=True)
class Held:
    """Embeddings of a slide: ``vectors`` (n, d) float16 and one over their lengths (n,), 0 where that is not finite."""

    vectors: NDArray[np.float16]
    scales: NDArray[np.float32]

    def similarity(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) cosines to a unit vector (d,); 0 for embeddings that nothing is like."""
        return similarities(self.vectors, self.scales, vector)

    def units(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """(m, d) unit vectors of some rows; zero for embeddings that nothing is like."""
        units = self.vectors[rows].astype(np.float32)
        scales = self.scales[rows]
        units *= scales[:, None]
        units[scales == 0] = 0  # not finite times 0 is not 0
        return units


class Embeddings:
    """Those of a collection, slide by slide as far as they fit; safe from several threads."""

    def __init__(self, collection: Collection, held: int = HELD) -> None:
        """``held``: bytes; slides that do not fit are not held."""
        self.collection = collection
        self._slides: dict[int, SlideCells] = {}
        for place, slide in enumerate(collection.slides):
            size = slide.table.count * collection.dim * 2
            if size <= held:
                self._slides[place] = slide
                held -= size
        self.complete = len(self._slides) == len(collection.slides)
        self._locks = {place: threading.Lock() for place in self._slides}
        self._held: dict[int, Held] = {}
        self._starting = threading.Lock()
        self._reader: threading.Thread | None = None

    def read(self) -> tuple[int, int]:
        """Begin to read all of them in the background. How many slides are there, and of how many."""
        with self._starting:
            if self._reader is None:
                self._reader = threading.Thread(target=self._read_all, daemon=True)
                self._reader.start()
        return len(self._held), len(self._slides)

    def blocks(self, slide: SlideCells) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """As ``SlideCells.blocks``, from memory where they are held."""
        held = self.of(self.collection.position(slide.name))
        return slide.blocks() if held is None else _blocks(held)

    def units(self, slide: SlideCells, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """As ``SlideCells.unit_embeddings``, from memory where they are held."""
        held = self.of(self.collection.position(slide.name))
        return slide.unit_embeddings(rows) if held is None else held.units(rows)

    def _read_all(self) -> None:
        for place in self._slides:
            with suppress(InputError):  # a damaged table: who asks for it is told
                self.of(place)

    def of(self, place: int) -> Held | None:
        """Embeddings of a slide, waiting until they are read; None where they are not held."""
        if place not in self._slides:
            return None
        with self._locks[place]:
            if place not in self._held:
                self._held[place] = _read(self._slides[place])
            return self._held[place]


def _blocks(held: Held) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for start in range(0, len(held.vectors), BLOCK):
        yield start, held.units(slice(start, start + BLOCK))


def _read(slide: SlideCells) -> Held:
    table = slide.table
    vectors = np.empty((table.count, table.embedding_dim), np.float16)
    scales = np.empty(table.count, np.float32)
    start = 0
    for batch in table.batches(("embedding",), 8192):
        block = embedding_matrix(pa.chunked_array([batch.column("embedding")]))
        stop = start + len(block)
        vectors[start:stop] = block
        with np.errstate(invalid="ignore", divide="ignore"):
            lengths = np.linalg.norm(block.astype(np.float32), axis=1)
            scales[start:stop] = np.where(np.isfinite(lengths) & (lengths > 0), 1 / lengths, 0)
        start = stop
    return Held(vectors, scales)
