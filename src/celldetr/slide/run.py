"""One go at a run, between the lock being taken and given back: predict what is missing, join the parts, say what was
done.

Parts that exist are trusted, because they are renamed only when whole and the run's identity has been compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from celldetr.cells.schema import CELLS, RUN, cell_rows
from celldetr.errors import InputError
from celldetr.io.files import write_json
from celldetr.slide.band_cache import FoundStore, digest
from celldetr.slide.nucleus_size import NucleusSizes
from celldetr.slide.parts import PARTS, FailedTile, PartStore
from celldetr.slide.pipeline import Counter, Job, Seconds, predict_bands
from celldetr.slide.provenance import doubts, environment, history, loss, now, results, scarcity, table_provenance


@dataclass(frozen=True)
class SlideProgress:
    """How far a run is.

    Attributes:
        tiles, tiles_total: read, and to be read.
        mm2: the area that those read own.
        cells: found so far.
    """

    tiles: int
    tiles_total: int
    mm2: float
    cells: int


class Session:
    """One go at a run: from what the directory holds to ``cells.parquet``, or to a state that can be resumed.

    Args:
        job: the work.
        directory: of the slide's output; it exists and is locked.
        identity: of the run, see ``provenance``.
        earlier: ``run.json`` of the sessions before, or empty.
        start: ``time.perf_counter`` when work on the slide began.
        seconds: spent on it since then.
        found: bands that were found already, by other processes or an earlier session; by default those in the
            directory.
        progress: called at the beginning and after every batch.
    """

    def __init__(
        self,
        job: Job,
        directory: Path,
        identity: dict[str, Any],
        earlier: dict[str, Any],
        start: float,
        seconds: Seconds,
        found: FoundStore | None = None,
        progress: Callable[[SlideProgress], None] | None = None,
    ) -> None:
        self._job = job
        self._directory = directory
        self._progress = progress
        self._store = PartStore(directory, job.model.types, job.model.embedding_dim)
        self._found = found or FoundStore(directory / PARTS, digest(identity))
        self._infos = self._store.infos(job.plan.bands)
        self._start = start
        self._counter = Counter(seconds=seconds)
        for info in self._infos:
            self._counter.add(info.tiles, info.rows, info.mm2)
        self._before = (self._counter.cells, self._counter.mm2)
        self._seconds_before, sessions, started = history(earlier)
        self._run = {
            "status": "running",
            **identity,
            "warnings": doubts(job),
            "sessions": sessions + 1,
            "started": started,
        }

    def complete(self) -> dict[str, Any]:
        """Do what is left to do; returns the content of ``run.json``."""
        try:
            write_json(self._directory / RUN, self._run)
            self._predict()
            failed = [tile for info in self._infos for tile in info.failed]
            if failed:
                self._check_worth(failed)
                self._run["warnings"] = [*self._run["warnings"], loss(failed)]
            start = time.perf_counter()
            table = self._store.finish(self._infos, table_provenance(self._run, len(failed)))
            self._run["warnings"] = [*self._run["warnings"], *self._sizes(table).doubts()]
            if self._job.options.tissue and not failed:
                self._run["warnings"] += scarcity(self._counter.cells, self._job.plan.tissue_mm2)
            self._counter.seconds.write += time.perf_counter() - start
            status = "partial" if failed else "complete"
            run = self._describe(status) | results(self._infos, self._job.plan, self._job.model.types)
            write_json(self._directory / RUN, run)
        except BaseException as error:
            leave(self._directory, self._store, self._found, self._job.plan.bands, self._describe, error)
            raise
        self._store.remove()
        return run

    def _check_worth(self, failed: list[FailedTile]) -> None:
        """Refuse a slide of which nothing could be decoded: no cells would look like a result."""
        if all(info.is_lost for info in self._infos):
            slide, first = self._job.reader.file or self._job.reader.name, failed[0].reason
            raise InputError(f"{slide}: none of its {len(failed)} tiles can be decoded; the first: {first}")

    def _sizes(self, table: Path) -> NucleusSizes:
        sizes = NucleusSizes(self._job.reader.mpp)
        sizes.add_file(table)
        return sizes

    def _predict(self) -> None:
        ownership = self._job.ownership()
        if self._infos:
            last = self._infos[-1].band
            ownership.resume(last, self._store.centres(last))
        self._counter.tell = self._tell
        self._tell(self._counter)
        todo = self._job.plan.bands[len(self._infos) :]
        with closing(predict_bands(self._job, todo, ownership, self._counter, self._found)) as bands:
            for cells, info in bands:
                start = time.perf_counter()
                mpp = (self._job.reader.mpp_x, self._job.reader.mpp_y)
                self._store.write(cell_rows(cells, self._job.model.types, mpp), info)
                self._counter.seconds.write += time.perf_counter() - start
                self._infos.append(info)

    def _tell(self, counter: Counter) -> None:
        if self._progress is not None:
            total = int(self._job.plan.selected.sum())
            self._progress(SlideProgress(counter.tiles, total, counter.mm2, counter.cells))

    def _describe(self, status: str) -> dict[str, Any]:
        """``run.json`` at this moment: identity, times, machine."""
        spent, total = self._counter.seconds, time.perf_counter() - self._start
        mine = {**asdict(spent), "total": total}
        return {
            **self._run,
            "status": status,
            "ended": now(),
            "seconds": {key: round(value + self._seconds_before.get(key, 0.0), 3) for key, value in mine.items()},
            "speed": {
                "cells_per_s": round((self._counter.cells - self._before[0]) / total, 3),
                "mm2_per_s": round((self._counter.mm2 - self._before[1]) / total, 6),
            },
            **environment(),
        }


def leave(
    directory: Path,
    store: PartStore,
    found: FoundStore,
    bands: Sequence[int],
    describe: Callable[[str], dict[str, Any]],
    error: BaseException,
) -> None:
    """Leave what can be resumed, or nothing if no part was written. Must not hide the error that ends the run.

    Args:
        directory: of the slide's output, held by the caller.
        store: its parts.
        found: its bands that are found and not settled.
        bands: of the plan.
        describe: gives ``run.json`` for a status.
        error: what ends the run.
    """
    with suppress(OSError, InputError):
        if not _is_worth_keeping(store, found, bands):
            store.remove()
            for name in (CELLS, RUN):  # run.json last: without it nobody knows whose the rest is
                (directory / name).unlink(missing_ok=True)
            return
        status = "failed" if isinstance(error, Exception) else "interrupted"
        reason = str(error) or type(error).__name__
        write_json(directory / RUN, describe(status) | {"error": reason})


def _is_worth_keeping(store: PartStore, found: FoundStore, bands: Sequence[int]) -> bool:
    """Whether any tile has been decoded and its cells found, by what is on disk: signals come at any time."""
    infos = store.infos(bands)
    if not all(info.is_lost for info in infos):
        return True
    settled = {info.band for info in infos}
    return any(found.has(band) for band in bands if band not in settled)
