"""From tiles to bands of cells: threads read ahead, the model works in the calling thread, ownership decides in order.

*Finding* the cells of a band needs no other band; *settling* whose they are needs the bands above, and next to no time.

The number of tiles read ahead is bounded, and a band is handed over as soon as it is whole, so memory depends on the
width of the slide only. A batch never spans two bands: the last bits of a network's output depend on what it sees
together, and a resumed run must repeat an uninterrupted one.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from celldetr.model.output import TileCells, TileModel
from celldetr.slide.band_cache import BandCache, DetectedTile
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import DamagedTile, read_tile
from celldetr.slide.grid import Tile
from celldetr.slide.malloc import release, share_heaps
from celldetr.slide.options import PredictOptions
from celldetr.slide.parts import FailedTile, PartInfo, joint_bounds
from celldetr.slide.plan import Plan
from celldetr.slide.seams import Ownership, centres

CUT_OFF = 4  # px; a box that ends this near to lost pixels may be of a nucleus that goes on there
MAX_THREADS = 8  # decoding a tile takes far less than predicting it

Pixels = NDArray[np.uint8] | DamagedTile
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """Work of a run; ``least_score`` of the cells that are reported, None: the model's threshold."""

    reader: SlideReader
    model: TileModel
    options: PredictOptions
    plan: Plan
    least_score: float | None = None

    def ownership(self) -> Ownership:
        """A fresh decision on who owns what, for reading from the beginning."""
        bounds = (0.0, 0.0, float(self.reader.width), float(self.reader.height))
        return Ownership(self.plan.grid.scale, self.model.mpp, bounds)


@dataclass
class Seconds:
    """Where the time goes: looking for tissue, waiting for pixels, in the model, writing."""

    tissue: float = 0.0
    read: float = 0.0
    model: float = 0.0
    write: float = 0.0


@dataclass
class Counter:
    """Tiles, cells and mm2 done so far; ``on_change`` is called with the counter after every batch."""

    tiles: int = 0
    cells: int = 0
    mm2: float = 0.0
    on_change: Callable[[Counter], None] | None = None
    seconds: Seconds = field(default_factory=Seconds)

    def add(self, tiles: int, cells: int, mm2: float) -> None:
        """Count one more batch, or a band of an earlier session."""
        self.tiles += tiles
        self.cells += cells
        self.mm2 += mm2
        if self.on_change is not None:
            self.on_change(self)


def usable_threads() -> int:
    """Processors this process may use, which on a shared machine are fewer than it has; at most ``MAX_THREADS``."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(count, MAX_THREADS))


def read_ahead(
    reader: SlideReader, tiles: Iterable[Tile], scale: tuple[float, float], depth: int, threads: int
) -> Generator[Pixels, None, None]:
    """The pixels of tiles in their order, at most ``depth`` of them read or being read before they are asked for."""

    def read(tile: Tile) -> Pixels:
        box = (tile.x * scale[0], tile.y * scale[1], tile.width * scale[0], tile.height * scale[1])
        return read_tile(reader, *box, tile.width, tile.height)

    return ahead(read, tiles, depth, threads)


def ahead(do: Callable[[T], R], items: Iterable[T], depth: int, threads: int) -> Generator[R, None, None]:
    """``map`` in threads: at most ``depth`` results are there or begun before they are asked for."""
    todo = iter(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tile")
    try:
        pending = deque(pool.submit(do, item) for item in islice(todo, depth))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(do, item) for item in islice(todo, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def predict_bands(
    job: Job, bands: Sequence[int], ownership: Ownership, counter: Counter, cache: BandCache | None = None
) -> Generator[tuple[TileCells, PartInfo], None, None]:
    """The cells of bands, one after the other: detect those of each, then drop duplicates across tiles.

    Args:
        job: the work.
        bands: rows of the grid, rising.
        ownership: has seen the bands before these.
        counter: counts every batch.
        cache: bands in it are not detected again.

    Yields:
        Cells with boxes in level-0 pixels, and their ``PartInfo``.

    Raises:
        InputError: the slide cannot be read any more. A place that is damaged raises nothing: its tile has failed.
    """
    there = {band for band in bands if cache is not None and cache.has(band)}
    with closing(_images(job, [band for band in bands if band not in there])) as images:
        for band in bands:
            known = cache.read(band, job.plan.tiles(band)) if cache is not None and band in there else None
            if known is not None:
                batches: Iterable[Sequence[DetectedTile]] = [known]
            elif band in there:  # damaged
                batches = find_bands(job, [band], counter.seconds)
            else:
                batches = _find_band(job, band, images, counter.seconds)
            yield settle_band(job, band, batches, ownership, counter)


def find_bands(job: Job, bands: Sequence[int], seconds: Seconds) -> Generator[list[DetectedTile], None, None]:
    """Raw detections in bands, in any order, batch after batch; a batch is of one band. Adds to ``seconds``.

    Raises:
        InputError: the slide cannot be read any more.
    """
    with closing(_images(job, bands)) as images:
        for band in bands:
            yield from _find_band(job, band, images, seconds)


def _images(job: Job, bands: Sequence[int]) -> Generator[Pixels, None, None]:
    share_heaps()
    threads = usable_threads()
    tiles = (tile for band in bands for tile in job.plan.tiles(band))
    return read_ahead(job.reader, tiles, job.plan.grid.scale, 2 * job.options.batch_size + threads, threads)


def _find_band(
    job: Job, band: int, images: Iterator[Pixels], seconds: Seconds
) -> Generator[list[DetectedTile], None, None]:
    tiles, size = job.plan.tiles(band), job.options.batch_size
    for batch in (tiles[first : first + size] for first in range(0, len(tiles), size)):
        start = time.perf_counter()
        read = list(zip(batch, islice(images, len(batch)), strict=True))
        seconds.read += time.perf_counter() - start
        whole = [pixels for _, pixels in read if not (isinstance(pixels, DamagedTile) and pixels.is_lost)]
        start = time.perf_counter()
        arrays = [pixels.pixels if isinstance(pixels, DamagedTile) else pixels for pixels in whole]
        cells = iter(job.model.predict_tiles(arrays, job.least_score) if arrays else [])
        seconds.model += time.perf_counter() - start
        yield [_found(tile, pixels, cells) for tile, pixels in read]
    release()


def _found(tile: Tile, pixels: Pixels, cells: Iterator[TileCells]) -> DetectedTile:
    """Detections in a tile, the next item of ``cells`` if anything of the tile could be decoded."""
    if not isinstance(pixels, DamagedTile):
        return DetectedTile(tile, next(cells))
    if pixels.is_lost:
        return DetectedTile(tile, None, pixels.lost, pixels.reason)
    seen, (left, top, right, bottom) = next(cells), pixels.lost
    x0, y0, x1, y1 = seen.boxes.T
    rim = CUT_OFF
    clear = (x1 < left - rim) | (x0 > right + rim) | (y1 < top - rim) | (y0 > bottom + rim)
    return DetectedTile(tile, seen.take(np.flatnonzero(clear)), pixels.lost, pixels.reason)


def settle_band(
    job: Job, band: int, batches: Iterable[Sequence[DetectedTile]], ownership: Ownership, counter: Counter
) -> tuple[TileCells, PartInfo]:
    """The cells that a band keeps, from the ``batches`` of its tiles, left to right; see ``predict_bands``."""
    types = job.model.types
    parts = [TileCells.none(len(types), job.model.embedding_dim)]
    outside: list[tuple[float, float]] = []
    failed: list[FailedTile] = []
    tiles, area = 0, 0.0
    for batch in batches:
        before = len(parts)
        for found in batch:
            area += job.plan.area(found.tile)
            failed += _failure(job, found)
            if found.cells is None:
                continue
            kept = ownership.keep(found.tile, found.cells)
            if job.plan.roi is not None:
                middles = centres(kept.boxes)
                outside += [(float(x), float(y)) for x, y in middles[job.plan.roi.beside(middles)]]
                kept = kept.take(np.flatnonzero(job.plan.roi.inside(middles)))
            parts.append(kept)
        tiles += len(batch)
        counter.add(len(batch), sum(map(len, parts[before:])), sum(job.plan.area(found.tile) for found in batch))
    cells = TileCells.join(parts)
    counts = np.bincount(cells.probabilities.argmax(1), minlength=len(types))
    by_type = dict(zip(types, counts.tolist(), strict=True))
    info = PartInfo(band, len(cells), tiles, area, by_type, joint_bounds(cells.boxes), tuple(outside), tuple(failed))
    return cells, info


def _failure(job: Job, found: DetectedTile) -> list[FailedTile]:
    """What is lost of the part that a tile owns; nothing if that is whole."""
    if found.lost is None:
        return []
    tile, grid = found.tile, job.plan.grid
    x, y, width, height = grid.place(tile)
    if found.cells is None:
        return [FailedTile(tile.row, tile.column, x, y, width, height, job.plan.area(tile), found.reason)]
    left, top, right, bottom = found.lost
    x0, x1 = (min(max((tile.x + edge) * grid.scale[0], x), x + width) for edge in (left, right))
    y0, y1 = (min(max((tile.y + edge) * grid.scale[1], y), y + height) for edge in (top, bottom))
    if x0 >= x1 or y0 >= y1:
        return []
    area = (x1 - x0) * (y1 - y0) * (job.reader.mpp / 1000) ** 2
    return [FailedTile(tile.row, tile.column, x0, y0, x1 - x0, y1 - y0, area, found.reason)]
