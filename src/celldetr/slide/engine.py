"""Slide in, table of cells out, in a folder of the slide's own; ``slide.array`` does the same for an image in memory.

A run builds ``OUT/<slide>/``. Until it is done there are ``run.json`` with another status than ``complete``, and
parts; ``cells.parquet`` appears last. Whatever ends a run early (Ctrl-C, a crash, a full disk, a damaged slide)
leaves the parts that are whole, and ``resume`` continues after them. A run that fails before its first part leaves
nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from celldetr.cells.clusters import CLUSTERS
from celldetr.cells.schema import (
    CELLS,
    FINISHED,
    RUN,
)
from celldetr.errors import InputError
from celldetr.io.files import ZARR_FILE, flush_directory, output_errors, read_json
from celldetr.io.lock import RunLock
from celldetr.io.run_folder import check_modes
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.options import PredictOptions
from celldetr.slide.parts import PARTS, FailedTile, PartStore
from celldetr.slide.pipeline import Job, Seconds
from celldetr.slide.plan import make_plan
from celldetr.slide.provenance import changed, identity
from celldetr.slide.run import Session, SlideProgress

if TYPE_CHECKING:
    from celldetr.model.output import TileModel

__all__ = ["RunSummary", "SlideProgress", "run_slide", "slide_run"]

MIRAX_FILE = "Slidedat.ini"  # in the folder of a MIRAX slide, which has the name of the slide
# What ``overwrite`` removes: a run's own files and what other commands made from them, nothing else. ``run.json`` goes
# last, after the parts: whenever this is interrupted, what is left is known to be of the earlier run.
OUTPUTS = ("summary.html*", "overview.png*", "cells.*", "clusters.parquet*", "clusters.geojson.gz*")
# What a process that was killed may have been writing.
UNFINISHED = ("summary.html.tmp", "overview.png.tmp", "cells.*.tmp", RUN + ".tmp")


@dataclass(frozen=True)
class RunSummary:
    """What came out of a run; ``run.json`` has more.

    Attributes:
        directory: where the output is.
        cells: how many were found.
        counts: by type, all types of the model.
        tissue_mm2: area of tissue.
        seconds: of the whole run, over all its sessions.
        warnings: what is doubtful, one sentence each.
        failed_tiles: what could not be decoded; the table has no cells from there.
    """

    directory: Path
    cells: int
    counts: dict[str, int]
    tissue_mm2: float
    seconds: float
    warnings: tuple[str, ...]
    failed_tiles: tuple[FailedTile, ...] = ()


def run_slide(
    reader: SlideReader,
    model: TileModel,
    out_dir: Path | str,
    options: PredictOptions | None = None,
    progress: Callable[[SlideProgress], None] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> RunSummary:
    """Find the cells of a slide and write them to ``out_dir/<slide>/``: ``slide_run`` for its table alone."""
    with slide_run(reader, model, out_dir, options, progress, resume=resume, overwrite=overwrite) as summary:
        return summary


@contextmanager
def slide_run(
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
    check_modes(resume, overwrite)
    directory = Path(out_dir) / reader.name
    run = identity(reader, model, options)
    start = time.perf_counter()
    # Before the lock, because with it goes what is to be overwritten, and the plan may find a mistake.
    finished = is_complete(earlier_run(directory, run, resume, overwrite))
    plan = None if finished else make_plan(reader, model, options)
    seconds = Seconds(tissue=time.perf_counter() - start)
    with claim(directory, run, resume, overwrite) as earlier:
        if not is_complete(earlier):
            job = Job(reader, model, options, plan or make_plan(reader, model, options))
            session = Session(job, directory, run, earlier or {}, start, seconds, progress=progress)
            earlier = session.complete()
        yield summarise(directory, earlier)


@contextmanager
def claim(directory: Path, run: dict[str, Any], resume: bool, overwrite: bool) -> Iterator[dict[str, Any] | None]:
    """Hold a slide's output directory, made if needed, against all other runs; gives what ``earlier_run`` gives.

    With ``overwrite`` earlier output is gone. If nothing is in the directory at the end, it goes too.

    Raises:
        InputError: see ``earlier_run``; the directory is in use, or cannot be made.
    """
    if (directory / MIRAX_FILE).is_file():
        raise InputError(f"{directory}: holds the pixels of a MIRAX slide; choose another folder for results")
    with output_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        flush_directory(directory.parent)
    try:
        with RunLock(directory):
            earlier = earlier_run(directory, run, resume, overwrite)  # another run may have come before the lock
            with output_errors(directory):
                _sweep(directory, everything=overwrite, parts=overwrite or is_complete(earlier))
            yield earlier
    finally:
        with suppress(OSError):
            directory.rmdir()  # only succeeds if nothing was left in it


def earlier_run(directory: Path, run: dict[str, Any], resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """The ``run.json`` of an earlier run to go on with, or None to begin.

    Raises:
        InputError: there is output and neither was asked for, or it is of another identity than ``run``.
    """
    there = [name for name in (CELLS, RUN, PARTS, CLUSTERS) if (directory / name).exists()]
    if overwrite or not there:
        return None
    if not resume:
        what = "a finished" if CELLS in there else "an unfinished"
        raise InputError(
            f"{directory}: holds {what} run; pass `overwrite=True` to replace it, or `resume=True` to "
            + ("keep it" if CELLS in there else "continue it")
        )
    earlier = read_json(directory / RUN)
    if earlier is None:
        raise InputError(f"{directory}: has no {RUN}, so it cannot be resumed; pass `overwrite=True` to replace it")
    wrong = changed(earlier, run)
    if wrong:
        raise InputError(
            f"{directory}: cannot be resumed, it was made with {'; '.join(wrong)}; pass `overwrite=True` to replace it"
        )
    if earlier.get("status") in FINISHED and CELLS not in there:
        earlier["status"] = "incomplete"
    return earlier


def is_complete(earlier: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    """Whether nothing is left to do."""
    return earlier is not None and earlier.get("status") in FINISHED


def _sweep(directory: Path, everything: bool, parts: bool) -> None:
    """Remove what a killed process left unfinished, the parts of a finished run, or all output."""
    if not any((directory / name).exists() for name in (CELLS, RUN, PARTS, CLUSTERS)):
        return  # never a run's directory: what is there is the user's
    for pattern in OUTPUTS if everything else UNFINISHED:
        for path in directory.glob(pattern):
            if path.is_file():
                path.unlink()
            elif (path / ZARR_FILE).is_file() or path.name.endswith((".zarr.tmp", ".zarr.old")):
                shutil.rmtree(path)
    if parts:
        PartStore(directory, (), 1).remove()
    if everything:
        (directory / RUN).unlink(missing_ok=True)
        flush_directory(directory)


def summarise(directory: Path, run: dict[str, Any]) -> RunSummary:
    """What is told of a finished run, from its ``run.json``.

    Raises:
        InputError: that has been changed by hand, or damaged.
    """
    try:
        return RunSummary(
            directory,
            int(run["cells"]["total"]),
            {str(name): int(count) for name, count in run["cells"]["by_type"].items()},
            float(run["tissue_mm2"]),
            float(run["seconds"]["total"]),
            tuple(map(str, run["warnings"])),
            tuple(FailedTile(**tile) for tile in run["failed_tiles"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{directory / RUN}: not as a run writes it ({type(error).__name__}: {error}); pass `overwrite=True`"
        ) from None
