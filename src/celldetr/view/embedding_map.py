"""A map of all cells of a run by their embeddings: those alike lie close together. Made once, kept beside the run.

A sample of the cells is laid out (``report.embedding_map``); every other cell is placed among the sampled cells that
are most like it. To find these, it is compared with a few ``LEADERS``, and then with the sampled cells near the leader
it is most like: a million cells take seconds.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from celldetr.errors import InputError
from celldetr.io.files import replacing
from celldetr.io.parquet import parquet_errors
from celldetr.io.safe_io import is_file
from celldetr.report.embedding_map import lay_out
from celldetr.search.collection import Collection, sample_rows
from celldetr.view.embeddings import Embeddings

FILE = "embedding_map.parquet"  # in the collection's home
SAMPLE = 2000
LEADERS, CANDIDATES, NEAREST = 64, 160, 3
SHARPNESS = 8  # the nearest sampled cell counts the more, so that few cells lie between islands
Points = NDArray[np.float32]


class Placement:
    """Places vectors among (S, d) unit vectors that have been laid out at (S, 2) ``points``."""

    def __init__(self, sample: NDArray[np.float32], points: Points, seed: int = 0) -> None:
        self._sample, self._points = sample, points
        chosen = np.random.default_rng(seed).choice(len(sample), min(LEADERS, len(sample)), replace=False)
        self._leaders = sample[chosen]
        near = min(CANDIDATES, len(sample))
        self._near = np.argpartition(-self._leaders @ sample.T, near - 1, axis=1)[:, :near]

    def __call__(self, vectors: NDArray[np.float32]) -> Points:
        """(n, d) unit vectors -> (n, 2)."""
        out = np.zeros((len(vectors), 2), np.float32)
        leader = (vectors @ self._leaders.T).argmax(1)
        for number in np.unique(leader):
            mine, near = np.flatnonzero(leader == number), self._near[number]
            distance = np.maximum(1 - vectors[mine] @ self._sample[near].T, 1e-6)
            k = min(NEAREST, len(near))
            best = np.argpartition(distance, k - 1, axis=1)[:, :k]
            nearest = np.take_along_axis(distance, best, 1)
            weights = (nearest.min(1, keepdims=True) / nearest) ** SHARPNESS
            weights /= weights.sum(1, keepdims=True)
            out[mine] = (weights[:, :, None] * self._points[near[best]]).sum(1)
        return out


class EmbeddingMap:
    """The map of a collection, made in the background when it is first asked for; safe from several threads."""

    def __init__(self, collection: Collection, embeddings: Embeddings) -> None:
        self.collection, self._embeddings = collection, embeddings
        self._path = collection.home / FILE
        self._stamps = {slide.name: slide.stamp for slide in collection.slides}
        self._points: list[Points] | None = None
        self._failure: InputError | None = None
        self._done = 0
        self._starting = threading.Lock()
        self._maker: threading.Thread | None = None

    def progress(self) -> tuple[int, int]:
        """Begin to make it, or to read it. How many cells are placed, and of how many.

        Raises:
            InputError: it cannot be made.
        """
        with self._starting:
            if self._maker is None:
                self._maker = threading.Thread(target=self._run, daemon=True)
                self._maker.start()
        if self._failure is not None:
            raise self._failure
        count = self.collection.count
        return (count if self._points is not None else min(self._done, count - 1)), count

    def points(self, place: int) -> Points:
        """(N, 2) places of a slide's cells, within -1 to 1; NaN where the embedding is not finite. Waits until done.

        Raises:
            InputError: no such slide, or the map cannot be made.
        """
        if not 0 <= place < len(self.collection.slides):
            raise InputError(f"no slide {place}; there are {len(self.collection.slides)}")
        self.progress()
        assert self._maker is not None
        self._maker.join()
        if self._points is None:
            raise self._failure or InputError("the map could not be made")
        return self._points[place]

    def _run(self) -> None:
        try:
            found = self._read()
            if found is None:
                with threadpool_limits(1):  # threads that wait for one another's small products cost five times as much
                    found = self._make()
                self._write(found)
            self._points = found
        except InputError as error:
            self._failure = error

    def _read(self) -> list[Points] | None:
        """The map on disk, if it is of these tables."""
        if not is_file(self._path):
            return None
        try:
            with parquet_errors(self._path):
                table = pq.read_table(self._path)
                about = json.loads((table.schema.metadata or {}).get(b"celldetr", b"{}"))
                both = np.column_stack([table["x"].to_numpy(), table["y"].to_numpy()])
        except (InputError, KeyError, ValueError):
            return None  # damaged: it is made again
        if about.get("slides") != self._stamps or len(both) != self.collection.count:
            return None
        return np.split(both, np.cumsum([slide.table.count for slide in self.collection.slides])[:-1])

    def _make(self) -> list[Points]:
        rows = sample_rows(self.collection, SAMPLE, 0)
        blocks = (self._units(place, some) for place, some in enumerate(rows))
        sample = np.concatenate(list(blocks))
        sample = sample[sample.any(1)]
        if len(sample) < 3:
            raise InputError("there are too few cells with an embedding for a map")
        laid_out, _ = lay_out(sample)
        low, high = laid_out.min(0), laid_out.max(0)
        scaled = (laid_out - (low + high) / 2) / (max((high - low).max(), 1e-9) / 1.9)
        place_them = Placement(sample, scaled.astype(np.float32))
        points = []
        for slide in self.collection.slides:
            mine = np.empty((slide.table.count, 2), np.float32)
            for start, vectors in self._embeddings.blocks(slide):
                stop = start + len(vectors)
                mine[start:stop] = np.where(vectors.any(1, keepdims=True), place_them(vectors), np.nan)
                self._done += len(vectors)
            points.append(mine)
        return points

    def _units(self, place: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        held = self._embeddings.of(place)
        return self.collection.slides[place].unit_embeddings(rows) if held is None else held.units(rows)

    def _write(self, points: list[Points]) -> None:
        both = np.concatenate(points)
        about = {b"celldetr": json.dumps({"slides": self._stamps}).encode()}
        table = pa.table({"x": both[:, 0], "y": both[:, 1]}).replace_schema_metadata(about)
        with suppress(InputError), replacing(self._path) as temporary:  # where nobody may write, it is made each time
            pq.write_table(table, temporary)
