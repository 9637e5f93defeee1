"""From tiles to bands of rows: threads read ahead, the model works in the calling thread, ownership decides in order.

The number of tiles read ahead is bounded, and a band is handed over as soon as it is whole, so memory depends on the
width of the slide only. A batch never spans two bands: the numbers a network returns depend, in their last bits, on
what it sees together, and a resumed run must repeat an uninterrupted one.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from celldetr.slide.grid import Tile
from celldetr.slide.options import PredictOptions
from celldetr.slide.ownership import Ownership
from celldetr.slide.plan import Plan
from celldetr.slide.reader import SlideReader
from celldetr.slide.roi_cells import RoiCells
from celldetr.slide.store import PartInfo
from celldetr.slide.table import tile_rows

if TYPE_CHECKING:
    from celldetr.model.output import TileCells, TileModel

MAX_THREADS = 8  # decoding a tile takes far less than predicting it


@dataclass(frozen=True)
class Job:
    """What a run works on: a slide, the model for it, how it is read, and which tiles."""

    reader: SlideReader
    model: TileModel
    options: PredictOptions
    plan: Plan

    def ownership(self) -> Ownership:
        """A fresh decision on who owns what, for reading from the beginning."""
        bounds = (0.0, 0.0, float(self.reader.width), float(self.reader.height))
        return Ownership(self.plan.grid.scale, self.model.mpp, bounds)


@dataclass
class Seconds:
    """Where the time of the calling thread goes: waiting for pixels, in the model, writing."""

    read: float = 0.0
    model: float = 0.0
    write: float = 0.0


@dataclass
class Counter:
    """What has been done so far, and who wants to know.

    Attributes:
        tiles, cells, mm2: done.
        tell: called with the counter after every batch.
        seconds: spent.
    """

    tiles: int = 0
    cells: int = 0
    mm2: float = 0.0
    tell: Callable[[Counter], None] | None = None
    seconds: Seconds = field(default_factory=Seconds)

    def add(self, tiles: int, cells: int, mm2: float) -> None:
        """Count one more batch, or a band of an earlier session."""
        self.tiles += tiles
        self.cells += cells
        self.mm2 += mm2
        if self.tell is not None:
            self.tell(self)


def usable_threads() -> int:
    """Processors this process may use, which on a shared machine are fewer than it has; at most ``MAX_THREADS``."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(count, MAX_THREADS))


def read_ahead(
    reader: SlideReader, tiles: Iterable[Tile], scale: tuple[float, float], depth: int, threads: int
) -> Generator[NDArray[np.uint8], None, None]:
    """The pixels of tiles in their order, at most ``depth`` of them read or being read before they are asked for."""
    todo = iter(tiles)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tile")

    def start(tile: Tile) -> Future[NDArray[np.uint8]]:
        box = (tile.x * scale[0], tile.y * scale[1], tile.width * scale[0], tile.height * scale[1])
        return pool.submit(reader.read_region, *box, tile.width, tile.height)

    try:
        pending = deque(start(tile) for tile in islice(todo, depth))
        while pending:
            image = pending.popleft().result()
            pending.extend(start(tile) for tile in islice(todo, 1))
            yield image
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def predict_bands(
    job: Job, bands: Sequence[int], ownership: Ownership, counter: Counter
) -> Generator[tuple[pa.Table, PartInfo], None, None]:
    """Find the cells of bands, one after the other.

    Args:
        job: slide, model, options and plan.
        bands: rows of the grid, rising.
        ownership: has seen the bands before these.
        counter: told of every batch.

    Yields:
        Rows of the cell table without ``cell_id``, and what is known about them.

    Raises:
        InputError: the slide is damaged; the region is named.
    """
    threads = usable_threads()
    tiles = (tile for band in bands for tile in job.plan.tiles(band))
    depth = 2 * job.options.batch_size + threads
    with closing(read_ahead(job.reader, tiles, job.plan.grid.scale, depth, threads)) as images:
        for band in bands:
            yield _predict_band(job, band, images, ownership, counter)


def _predict_band(
    job: Job, band: int, images: Iterator[NDArray[np.uint8]], ownership: Ownership, counter: Counter
) -> tuple[pa.Table, PartInfo]:
    tiles, types, size = job.plan.tiles(band), job.model.types, job.options.batch_size
    tables: list[pa.Table] = []
    edges: list[NDArray[np.float64]] = []
    outside: list[tuple[float, float]] = []
    counts = np.zeros(len(types), dtype=np.int64)
    for batch in (tiles[first : first + size] for first in range(0, len(tiles), size)):
        start = time.perf_counter()
        pixels = list(islice(images, len(batch)))
        counter.seconds.read += time.perf_counter() - start
        start = time.perf_counter()
        found = job.model.predict_tiles(pixels)
        counter.seconds.model += time.perf_counter() - start
        cells = 0
        for tile, seen in zip(batch, found, strict=True):
            kept, boxes = ownership.keep(tile, seen)
            if job.plan.roi is not None:
                kept, boxes, others = within(job.plan.roi, kept, boxes)
                outside.extend(others)
            tables.append(tile_rows(kept, boxes, types, (job.reader.mpp_x, job.reader.mpp_y)))
            edges.append(boxes)
            counts += np.bincount(kept.probabilities.argmax(1), minlength=len(types))
            cells += len(kept)
        counter.add(len(batch), cells, sum(job.plan.area(tile) for tile in batch))
    rows = pa.concat_tables(tables).combine_chunks()
    area = sum(job.plan.area(tile) for tile in tiles)
    by_type = dict(zip(types, counts.tolist(), strict=True))
    return rows, PartInfo(band, len(rows), len(tiles), area, by_type, _bounds(np.concatenate(edges)), tuple(outside))


def within(
    roi: RoiCells, cells: TileCells, boxes: NDArray[np.float64]
) -> tuple[TileCells, NDArray[np.float64], list[tuple[float, float]]]:
    """The cells whose centre lies in a ROI, their boxes, and the centres of others that decide about cells in it."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    index = np.flatnonzero(roi.inside(centres))
    others = centres[roi.beside(centres)]
    return cells.take(index), boxes[index], [(float(x), float(y)) for x, y in others]


def _bounds(boxes: NDArray[np.float64]) -> tuple[float, float, float, float] | None:
    if not len(boxes):
        return None
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
