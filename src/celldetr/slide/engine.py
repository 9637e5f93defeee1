"""Slide in, table of cells out, in a folder of the slide's own; ``slide.array`` does the same for an image in memory.

A run builds ``OUT/<slide>/``. Until it is done there are ``run.json`` with another status than ``complete``, and the
bands that are detected (``band_cache``). Whatever ends a run early (Ctrl-C, a crash, a full disk) leaves these, and
``resume`` detects the others. When all are there, the cells at the seams are settled and ``cells.parquet`` is written.
A run that fails before its first band leaves nothing.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from celldetr.cells.schema import CELLS, RUN, cell_schema, table_metadata
from celldetr.errors import InputError
from celldetr.io.files import output_errors
from celldetr.io.run_folder import Layout, RunFolder
from celldetr.model.output import TileModel
from celldetr.slide.band_cache import BANDS, PARTS, BandCache
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import FailedTile
from celldetr.slide.doubts import CellFacts, doubts
from celldetr.slide.options import PredictOptions
from celldetr.slide.pipeline import BandInfo, Counter, Job, Seconds, predict_bands
from celldetr.slide.plan import checked_plan
from celldetr.slide.provenance import (
    damage_warning,
    environment,
    identity,
    job_warnings,
    now,
    results,
    scarcity_warnings,
    table_provenance,
)
from celldetr.slide.table_writer import joint_bounds, write_table

ATTEMPTS = "finish-*.tmp/"  # folders in PARTS, in each of which a worker of a cluster finishes the slide
GIVEN = "given.bin"  # in PARTS: what is known so far of cells that were given (celldetr.given)
OLD_PARTS = "part-*.parquet"  # of version 0.1.0, removed when an interrupted run of that is overwritten
LAYOUT = Layout(
    RUN,
    outputs=("summary.html", "overview.png", "cells.*", "clusters.parquet", "clusters.geojson.gz"),
    working=(*(f"{PARTS}/{files}" for files in (OLD_PARTS, BANDS, GIVEN, ATTEMPTS)), f"{PARTS}/"),
    results=(CELLS,),
    shared=True,
)
NOTEBOOK_SIDE = 900  # px of a picture in a notebook
FREE = ("options.batch_size", "mpp_source")  # may change when a run is resumed: neither decides which cells come out
MIRAX_FILE = "Slidedat.ini"  # in the folder of a MIRAX slide, which has the name of the slide


@dataclass(frozen=True)
class SlideProgress:
    """How far a run is: tiles read and to be read, mm2 that those read own, cells detected so far."""

    tiles: int
    tiles_total: int
    mm2: float
    cells: int


@dataclass(frozen=True)
class RunSummary:
    """What came out of a run; ``run.json`` has more."""

    directory: Path  # where the output is
    cells: int  # number of cells
    counts: dict[str, int]  # by type, all types of the model
    tissue_mm2: float  # area of tissue
    seconds: float  # of the whole run, over all its sessions
    warnings: tuple[str, ...]  # what is doubtful, one sentence each
    failed_tiles: tuple[FailedTile, ...] = ()  # what could not be decoded; the table has no cells from there

    def _repr_png_(self) -> bytes | None:
        """``overview.png``, which is what a notebook shows, small; None before there is one."""
        path = self.directory / "overview.png"
        if not path.is_file():
            return None
        with Image.open(path) as image:
            image.thumbnail((NOTEBOOK_SIDE, NOTEBOOK_SIDE))
            stream = io.BytesIO()
            image.save(stream, format="PNG")
        return stream.getvalue()


@contextmanager
def run_slide(
    reader: SlideReader,
    model: TileModel,
    out_dir: Path | str,
    options: PredictOptions | None = None,
    progress: Callable[[SlideProgress], None] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Iterator[RunSummary]:
    """Find the cells of a slide, write them to ``out_dir/<slide>/``, and hold that folder until the block ends.

    In the block the table is finished: what is made from it (pictures, exports) is written there.

    Args:
        reader: the slide, open.
        model: finds the cells of tiles.
        out_dir: made if needed.
        options: how the slide is read.
        progress: called once at the beginning and after every batch, in this thread.
        resume: continue an interrupted run, or accept a finished one, of the same slide, model and options; where there
            is none, begin.
        overwrite: replace what is there.

    Raises:
        InputError: there is output already, or of another slide, model or options than is to be resumed; the directory
            is in use; the disk is full; nothing of the slide can be decoded; the region lies outside it.
    """
    options = options or PredictOptions()
    start = time.perf_counter()
    folder = slide_folder(Path(out_dir) / reader.name, identity(reader, model, options))
    # Before the folder is opened, because with that goes what is to be overwritten, and the plan may find a mistake.
    folder.check(resume=resume, overwrite=overwrite)
    plan = None if folder.is_finished else checked_plan(reader, model, options)
    seconds = Seconds(tissue=time.perf_counter() - start)
    with folder.open(resume=resume, overwrite=overwrite):
        if not folder.is_finished:
            job = Job(reader, model, options, plan or checked_plan(reader, model, options))
            Session(job, folder, start, seconds, progress=progress).complete()
        yield summarise(folder)


def slide_folder(directory: Path, identity: dict[str, Any]) -> RunFolder:
    """The output folder of a slide, for a run of this ``provenance.identity``."""
    if (directory / MIRAX_FILE).is_file():
        raise InputError(f"{directory}: holds the pixels of a MIRAX slide; choose another folder for results")
    return RunFolder(directory, LAYOUT, identity, FREE)


def summarise(folder: RunFolder) -> RunSummary:
    """Summary of a finished run, from its record."""
    run = folder.record
    return RunSummary(
        folder.path,
        run["cells"]["total"],
        dict(run["cells"]["by_type"]),
        run["tissue_mm2"],
        run["seconds"]["total"],
        tuple(run["warnings"]),
        tuple(FailedTile(**tile) for tile in run["failed_tiles"]),
    )


class Session:
    """One session of a run: from what the folder holds to ``cells.parquet``, or to a state that can be resumed.

    Args:
        job: the work.
        folder: of the slide's results, open; its record is that of the sessions before, or empty.
        start: ``time.perf_counter`` when work on the slide began, ``seconds`` spent on it since then.
        cache: bands that other processes have detected; by default those of earlier sessions.
        progress: see ``run_slide``.
    """

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        start: float,
        seconds: Seconds,
        cache: BandCache | None = None,
        progress: Callable[[SlideProgress], None] | None = None,
    ) -> None:
        self._job, self._folder, self._progress = job, folder, progress
        self._cache = cache or BandCache(folder.path, folder.request)
        self._counter = Counter(seconds=seconds, on_change=self._report)
        earlier = set(job.plan.bands) - set(self._cache.missing(job.plan.bands)) if cache is None else set()
        self._known = job.plan.count(sorted(earlier))  # tiles of earlier sessions
        self._before = (0, 0.0)  # cells and mm2 of these
        self._start, self._earlier = start, folder.record

    def complete(self) -> None:
        """Do what is left to do, and finish the run in its folder."""
        folder, job = self._folder, self._job
        warnings = job_warnings(job)
        begin_session(folder, warnings=warnings)
        try:
            self._report(self._counter)
            infos = [info for _, info in predict_bands(job, self._counter, self._cache)]
            failed = [tile for info in infos for tile in info.failed]
            if failed:
                if all(info.is_lost for info in infos):  # no cells would look like a result
                    folder.discard()
                    slide, reason = job.reader.file or job.reader.name, failed[0].reason
                    raise InputError(f"{slide}: none of its {len(failed)} tiles can be decoded; the first: {reason}")
                warnings.append(damage_warning(failed))
            start = time.perf_counter()
            self._write_table(infos, len(failed))
            warnings += doubts(job, CellFacts.of_file(folder.path / CELLS, job.reader.mpp))
            if job.options.tissue and not failed:
                warnings += scarcity_warnings(self._counter.cells, job.plan.tissue_mm2)
            self._counter.seconds.write += time.perf_counter() - start
            counts = results(infos, job.plan, job.model.types)
            folder.finish("partial" if failed else "complete", warnings=warnings, **self._facts(), **counts)
        except BaseException:
            keep_or_discard(folder, self._facts(), self._cache.holds(job.plan.bands))
            raise

    def _write_table(self, infos: Sequence[BandInfo], failed: int) -> None:
        """Settle the seams again, now that the metadata, which come first in the file, are known."""
        job = self._job
        mpp, types = (job.reader.mpp_x, job.reader.mpp_y), job.model.types
        bounds = joint_bounds(np.array([info.bounds for info in infos if info.bounds is not None]))
        metadata = table_metadata(table_provenance(self._folder.request, failed), bounds)
        schema = cell_schema(types, job.model.embedding_dim).with_metadata(metadata)
        bands = (cells for cells, _ in predict_bands(job, Counter(), self._cache))
        write_table(self._folder.path / CELLS, schema, bands, types, mpp)

    def _report(self, counter: Counter) -> None:
        if counter.tiles == self._known:
            self._before = counter.cells, counter.mm2
        if self._progress is not None and counter.tiles >= self._known:
            total = int(self._job.plan.selected.sum())
            self._progress(SlideProgress(counter.tiles, total, counter.mm2, counter.cells))

    def _facts(self) -> dict[str, Any]:
        """For the record: times, speed of this session, machine."""
        times = session_times(self._earlier, self._start, self._counter.seconds)
        total = time.perf_counter() - self._start
        cells, mm2 = self._counter.cells - self._before[0], self._counter.mm2 - self._before[1]
        speed = {"cells_per_s": round(cells / total, 3), "mm2_per_s": round(mm2 / total, 6)}
        return {**times, "speed": speed, **environment()}


def begin_session(folder: RunFolder, **values: Any) -> None:
    """Put one more session on a run's record, and make the folder of working files."""
    sessions, started = folder.record.get("sessions", 0) + 1, folder.record.get("started") or now()
    folder.begin(**values, sessions=sessions, started=started)
    with output_errors(folder.path):
        (folder.path / PARTS).mkdir(exist_ok=True)


def session_times(record: Mapping[str, Any], start: float, seconds: Seconds) -> dict[str, Any]:
    """Times at the end of a session that began at ``start`` (``time.perf_counter``), added to those on record."""
    before, total = record.get("seconds", {}), time.perf_counter() - start
    spent = {**asdict(seconds), "total": total}
    return {"ended": now(), "seconds": {key: round(value + before.get(key, 0), 3) for key, value in spent.items()}}


def keep_or_discard(folder: RunFolder, facts: dict[str, Any], worth: bool) -> None:
    """Leave a run that ends early for resuming, with ``facts`` on record; or nothing if no band is done (``worth``)."""
    if folder.is_finished:  # what ends it came while working files were removed
        return
    folder.record |= facts
    with suppress(OSError, InputError):  # must not hide what ends the run
        if not worth:
            folder.discard()
