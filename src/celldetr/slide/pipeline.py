"""From tiles to bands of cells: threads read ahead, the model works in the calling thread, ownership decides in order.

*Detecting* the cells of a band needs no other band; *settling* whose they are needs the bands above, and little time.

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
from celldetr.slide.damage import DamagedTile, FailedTile, read_tile
from celldetr.slide.grid import Tile
from celldetr.slide.malloc import release, share_heaps
from celldetr.slide.options import PredictOptions
from celldetr.slide.plan import Plan
from celldetr.slide.seams import Ownership, centres
from celldetr.slide.table_writer import joint_bounds

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


@dataclass(frozen=True)
class BandInfo:
    """A settled band."""

    tiles: int  # that were read, also damaged ones
    counts: NDArray[np.int64]  # (K,) cells by type
    bounds: tuple[float, float, float, float] | None  # xyxy of boxes and outlines, level-0 pixels; None: no cell
    failed: tuple[FailedTile, ...]  # what could not be decoded
    is_lost: bool  # whether no tile could be decoded


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
    """The pixels of tiles in their order, of which at most ``depth`` are read ahead."""

    def read(tile: Tile) -> Pixels:
        box = (tile.x * scale[0], tile.y * scale[1], tile.width * scale[0], tile.height * scale[1])
        return read_tile(reader, *box, tile.width, tile.height)

    return ahead(read, tiles, depth, threads)


def ahead(do: Callable[[T], R], items: Iterable[T], depth: int, threads: int) -> Generator[R, None, None]:
    """``map`` in threads: at most ``depth`` results are made ahead."""
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
    job: Job, counter: Counter, cache: BandCache | None = None
) -> Generator[tuple[TileCells, BandInfo], None, None]:
    """The cells of all bands, one after the other: detect those of each, then drop duplicates across tiles.

    Bands in the cache are not detected again, the others are written to it; ``counter`` counts every batch.

    Yields:
        Cells of a band with boxes in level-0 pixels, and its ``BandInfo``.

    Raises:
        InputError: the slide cannot be read any more. A place that is damaged raises nothing: its tile has failed.
    """
    bands, slide = job.plan.bands, (0.0, 0.0, float(job.reader.width), float(job.reader.height))
    ownership = Ownership(job.plan.grid.scale, job.model.mpp, slide)
    missing = bands if cache is None else cache.missing(bands)
    with closing(_images(job, missing)) as images:
        for band in bands:
            tiles = cache.read(band, job.plan.tiles(band)) if cache is not None and band not in missing else None
            if tiles is not None:
                yield _settle(job, [tiles], ownership, counter)
                continue
            detected: list[DetectedTile] = []
            if band in missing:
                batches = _detect(job, band, images, counter.seconds)
            else:  # the file of the band is damaged
                batches = detect_bands(job, [band], counter.seconds)
            settled = _settle(job, _kept(batches, detected), ownership, counter)
            if cache is not None:
                start = time.perf_counter()
                cache.write(band, detected)
                counter.seconds.write += time.perf_counter() - start
            yield settled


def _kept(batches: Iterable[list[DetectedTile]], detected: list[DetectedTile]) -> Iterator[list[DetectedTile]]:
    """Batches as they come, which are also added to a list."""
    for batch in batches:
        detected += batch
        yield batch


def detect_bands(job: Job, bands: Sequence[int], seconds: Seconds) -> Generator[list[DetectedTile], None, None]:
    """Raw detections in bands, in any order, batch after batch; a batch is of one band. Adds to ``seconds``."""
    with closing(_images(job, bands)) as images:
        for band in bands:
            yield from _detect(job, band, images, seconds)


def _images(job: Job, bands: Sequence[int]) -> Generator[Pixels, None, None]:
    share_heaps()
    threads = usable_threads()
    tiles = (tile for band in bands for tile in job.plan.tiles(band))
    return read_ahead(job.reader, tiles, job.plan.grid.scale, 2 * job.options.batch_size + threads, threads)


def _detect(
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
        yield [_detected(tile, pixels, cells) for tile, pixels in read]
    release()


def _detected(tile: Tile, pixels: Pixels, cells: Iterator[TileCells]) -> DetectedTile:
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


def _settle(
    job: Job, batches: Iterable[Sequence[DetectedTile]], ownership: Ownership, counter: Counter
) -> tuple[TileCells, BandInfo]:
    """The cells that a band keeps, from the batches of its tiles, left to right."""
    parts = [TileCells.none(len(job.model.types), job.model.embedding_dim)]
    failed: list[FailedTile] = []
    tiles, is_lost = 0, True
    for batch in batches:
        before = len(parts)
        for item in batch:
            failed += failure(job, item)
            if item.cells is None:
                continue
            is_lost = False
            kept = ownership.keep(item.tile, item.cells)
            if job.plan.roi is not None:
                kept = kept.take(np.flatnonzero(job.plan.roi.inside(centres(kept.boxes))))
            parts.append(kept)
        tiles += len(batch)
        counter.add(len(batch), sum(map(len, parts[before:])), sum(job.plan.area(item.tile) for item in batch))
    cells = TileCells.join(parts)
    counts = np.bincount(cells.probabilities.argmax(1), minlength=len(job.model.types))
    return cells, BandInfo(tiles, counts, joint_bounds(cells.boxes, cells.radii), tuple(failed), is_lost)


def failure(job: Job, item: DetectedTile) -> list[FailedTile]:
    """What is lost of the part that a tile owns; nothing if that is whole."""
    if item.lost is None:
        return []
    tile, grid = item.tile, job.plan.grid
    x, y, width, height = grid.place(tile)
    if item.cells is None:
        return [FailedTile(tile.row, tile.column, x, y, width, height, job.plan.area(tile), item.reason)]
    left, top, right, bottom = item.lost
    x0, x1 = (min(max((tile.x + edge) * grid.scale[0], x), x + width) for edge in (left, right))
    y0, y1 = (min(max((tile.y + edge) * grid.scale[1], y), y + height) for edge in (top, bottom))
    if x0 >= x1 or y0 >= y1:
        return []
    area = (x1 - x0) * (y1 - y0) * (job.reader.mpp / 1000) ** 2
    return [FailedTile(tile.row, tile.column, x0, y0, x1 - x0, y1 - y0, area, item.reason)]
