"""Embed cells that were given, tile by tile: the tiles that own a cell are read, and nothing is detected.

Each cell is of the one tile that owns its centre, on the grid that ``celldetr predict`` lays, so that it is seen with
the surroundings that a run would give it. What the model says of a cell is put where the cell stands in its file: in a
file of working records that is mapped a band at a time, so memory depends on neither the cells nor the slide's height.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from celldetr.data.pseudo_boxes import LARGEST_UM, pseudo_boxes
from celldetr.given.cells import GivenCells
from celldetr.io.files import output_errors
from celldetr.model.at_boxes import cells_at_boxes
from celldetr.model.inference import TilePredictor
from celldetr.model.output import TileCells
from celldetr.outlines import RADII, polygon_radii
from celldetr.slide.band_cache import DetectedTile
from celldetr.slide.damage import DamagedTile, FailedTile
from celldetr.slide.engine import SlideProgress
from celldetr.slide.grid import Grid, Tile
from celldetr.slide.malloc import release, share_heaps
from celldetr.slide.pipeline import CUT_OFF, Job, Seconds, failure, read_ahead, usable_threads
from celldetr.slide.plan import Plan


class Records(Protocol):
    """Working records of N cells (``record_type``), in the order of their file."""

    def open(self) -> NDArray[np.void]:
        """All, to be read or changed."""
        ...


def record_type(model: TilePredictor) -> np.dtype[np.void]:
    """A record of a cell: whether it is done, its box in level-0 pixels, and what the model says of it."""
    return np.dtype(
        [
            ("done", "u1"),
            ("box", "<f8", 4),
            ("embedding", "<f2", model.embedding_dim),
            ("probabilities", "<f4", len(model.types)),
            ("radii", "<f2", RADII),
            ("stains", "<f4", 4),
            ("familiarity", "<f4"),
        ]
    )


@dataclass(frozen=True)
class RecordsInMemory:
    """Records of an image in memory."""

    records: NDArray[np.void]

    def open(self) -> NDArray[np.void]:
        """See ``Records``."""
        return self.records


class RecordsOnDisk:
    """Records in a file, which is made when it is first opened; one of another size is replaced."""

    def __init__(self, path: Path, kind: np.dtype[np.void], count: int) -> None:
        self._path, self._kind, self._size = path, kind, kind.itemsize * count

    def open(self) -> NDArray[np.void]:
        """See ``Records``; what is mapped is released with the array. Raises InputError: the disk is full."""
        if not self._is_there():
            self._make()
        return np.memmap(self._path, self._kind, "r+")

    def any_done(self) -> bool:
        """Whether something is there that an earlier session, or this one, has found."""
        return self._is_there() and bool(self.open()["done"].any())

    def _is_there(self) -> bool:
        return self._path.is_file() and self._path.stat().st_size == self._size

    def _make(self) -> None:
        with output_errors(self._path), self._path.open("wb") as file:
            # A mapped page for which there is no room ends the process: all of it is asked for now.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, self._size)
            else:
                for start in range(0, self._size, 2**20):
                    file.write(bytes(min(2**20, self._size - start)))


def place(grid: Grid, given: GivenCells) -> NDArray[np.int64]:
    """(N,) number of the tile, row by row, that owns each cell."""
    x, y = (given.centres / grid.scale).T
    column = np.searchsorted(grid.columns.cuts[1:-1], x, side="right")
    row = np.searchsorted(grid.rows.cuts[1:-1], y, side="right")
    return (row * len(grid.columns) + column).astype(np.int64)


def plan_for(plan: Plan, given: GivenCells, owner: NDArray[np.int64], context: int, *, whole: bool) -> Plan:
    """A plan of the tiles that own cells, each trimmed to its cells and ``context`` model pixels around them.

    ``whole`` leaves tiles as they are, for models that measure in fractions of them.
    """
    shape = plan.selected.shape
    selected = np.bincount(owner, minlength=plan.selected.size).reshape(shape) > 0
    extents = np.zeros((plan.selected.size, 4))
    extents[:, :2], extents[:, 2:] = np.inf, -np.inf
    boxes = given.boxes / np.tile(plan.grid.scale, 2)
    np.minimum.at(extents[:, :2], owner, boxes[:, :2])
    np.maximum.at(extents[:, 2:], owner, boxes[:, 2:])
    return replace(
        plan, selected=selected, extents=None if whole else extents.reshape(*shape, 4), context=context, roi=None
    )


def embed_given(
    job: Job,
    model: TilePredictor,
    given: GivenCells,
    records: Records,
    seconds: Seconds,
    progress: Callable[[SlideProgress], None] | None = None,
) -> list[FailedTile]:
    """Fill in the records of cells; those that are done already, of an earlier session, are left.

    Args:
        job: slide, model and plan (``plan_for``).
        model: the same model.
        given: the cells, all on the slide.
        records: of the cells.
        seconds: what is spent is added.
        progress: called before the first tile and after each.

    Returns:
        What could not be decoded; records of cells there stay undone.
    """
    cells = _Cells(given, job)
    known = records.open()["done"].astype(bool)
    bands = [band for band in job.plan.bands if not all(known[cells.of(t)].all() for t in job.plan.tiles(band))]
    tiles = [tile for band in bands for tile in job.plan.tiles(band)]
    total = int(job.plan.selected.sum())
    state = SlideProgress(total - len(tiles), total, 0.0, int(known.sum()))
    failed: list[FailedTile] = []
    if progress is not None:
        progress(state)
    share_heaps()
    threads = usable_threads()
    with closing(read_ahead(job.reader, tiles, job.plan.grid.scale, threads + 2, threads)) as images:
        for band in bands:
            mapped, finished = records.open(), [np.zeros(0, np.intp)]
            for tile in job.plan.tiles(band):
                start = time.perf_counter()
                pixels = next(images)
                seconds.read += time.perf_counter() - start
                start = time.perf_counter()
                found = None
                if not (isinstance(pixels, DamagedTile) and pixels.is_lost):
                    index, found = cells.look(tile, pixels, model)
                    _write(mapped, index, found)
                    finished.append(index)
                seconds.model += time.perf_counter() - start
                if isinstance(pixels, DamagedTile):
                    failed += failure(job, DetectedTile(tile, found, pixels.lost, pixels.reason))
                count = 0 if found is None else len(found)
                state = SlideProgress(state.tiles + 1, total, state.mm2 + job.plan.area(tile), state.cells + count)
                if progress is not None:
                    progress(state)
            if isinstance(mapped, np.memmap):
                mapped.flush()  # before they are said to be done
            mapped["done"][np.concatenate(finished)] = 1
            del mapped
            release()
    return failed


class _Cells:
    """The given cells by tile."""

    def __init__(self, given: GivenCells, job: Job) -> None:
        self._given, self._grid, self._mpp = given, job.plan.grid, job.model.mpp
        owner = place(self._grid, given)
        self._order = np.argsort(owner, kind="stable")
        self._starts = np.searchsorted(owner[self._order], np.arange(len(self._grid) + 1))

    def of(self, tile: Tile) -> NDArray[np.intp]:
        """Positions of the cells that a tile owns, rising."""
        return self._at(tile.row, tile.column)

    def _at(self, row: int, column: int) -> NDArray[np.intp]:
        if not (0 <= row < len(self._grid.rows) and 0 <= column < len(self._grid.columns)):
            return self._order[:0]
        number = row * len(self._grid.columns) + column
        return self._order[self._starts[number] : self._starts[number + 1]]

    def look(
        self, tile: Tile, pixels: NDArray[np.uint8] | DamagedTile, model: TilePredictor
    ) -> tuple[NDArray[np.intp], TileCells]:
        """Positions of the cells that a tile owns, without those that touch lost pixels, and what is said of them.

        Boxes are in level-0 pixels.
        """
        own = self.of(tile)
        scale, corner = np.tile(self._grid.scale, 2), np.tile([tile.x, tile.y], 2)
        image = pixels.pixels if isinstance(pixels, DamagedTile) else pixels
        seen = own
        # Neighbours take part where cells attend to one another, and where a point's box ends at the next one's.
        if self._given.only_points or model.network.config.self_attention != "none":
            around = [self._at(tile.row + y, tile.column + x) for y in (-1, 0, 1) for x in (-1, 0, 1) if x or y]
            others = np.concatenate(around)
            x, y = (self._given.centres[others] / self._grid.scale - [tile.x, tile.y]).T
            seen = np.concatenate([own, others[(x >= 0) & (y >= 0) & (x < tile.width) & (y < tile.height)]])
        boxes = self._given.boxes[seen] / scale - corner
        if self._given.only_points:
            boxes = pseudo_boxes(image, boxes[:, :2], self._mpp).astype(np.float64)
        radii = None if self._given.areas is None else polygon_radii(self._given.areas[seen], self._given.boxes[seen])
        found = cells_at_boxes(model, image, boxes, radii).take(np.arange(len(own)))
        level0 = (boxes[: len(own)] + corner) * scale if self._given.only_points else self._given.boxes[own]
        found = replace(found, boxes=level0)
        if not isinstance(pixels, DamagedTile):
            return own, found
        (x0, y0, x1, y1), (left, top, right, bottom) = boxes[: len(own)].T, pixels.lost
        rim = CUT_OFF
        clear = (x1 < left - rim) | (x0 > right + rim) | (y1 < top - rim) | (y0 > bottom + rim)
        return own[clear], found.take(clear)


def _write(records: NDArray[np.void], index: NDArray[np.intp], found: TileCells) -> None:
    """Put what is found at ``index``."""
    rows = np.zeros(len(index), records.dtype)
    rows["box"], rows["embedding"] = found.boxes, found.embeddings
    rows["probabilities"], rows["stains"] = found.probabilities, found.stains
    rows["radii"] = np.nan if found.radii is None else found.radii
    rows["familiarity"] = np.nan if found.familiarity is None else found.familiarity
    records[index] = rows


def extents_of(given: GivenCells, mpp: tuple[float, float]) -> GivenCells:
    """Cells with boxes around all that may have to be seen of them: points become squares of ``LARGEST_UM``."""
    if not given.only_points:
        return given
    reach: NDArray[Any] = LARGEST_UM / np.array(mpp)
    return replace(given, boxes=given.boxes + np.concatenate([-reach, reach]))
