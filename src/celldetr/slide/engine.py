"""Slide in, table of cells out, in a folder of the slide's own; ``slide.array`` does the same for an image in memory.

A run builds ``OUT/<slide>/``. Until it is done there are ``run.json`` with another status than ``complete``, and
parts; ``cells.parquet`` appears last. Whatever ends a run early (Ctrl-C, a crash, a full disk, a damaged slide)
leaves the parts that are whole, and ``resume`` continues after them. A run that fails before its first part leaves
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celldetr.cells.schema import CELLS, RUN
from celldetr.errors import InputError
from celldetr.io.run_folder import Layout, RunFolder
from celldetr.slide.band_cache import BANDS
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.options import PredictOptions
from celldetr.slide.parts import ATTEMPTS, PART_FILES, PARTS, FailedTile
from celldetr.slide.pipeline import Job, Seconds
from celldetr.slide.plan import make_plan
from celldetr.slide.provenance import identity
from celldetr.slide.run import Session, SlideProgress

if TYPE_CHECKING:
    from celldetr.model.output import TileModel

__all__ = ["RunSummary", "SlideProgress", "run_slide", "slide_run"]

LAYOUT = Layout(
    RUN,
    outputs=("summary.html", "overview.png", "cells.*", "clusters.parquet", "clusters.geojson.gz"),
    working=(*(f"{PARTS}/{files}" for files in (PART_FILES, BANDS, ATTEMPTS)), f"{PARTS}/"),
    results=(CELLS,),
    shared=True,
)
FREE = ("options.batch_size", "mpp_source")  # may change when a run is resumed: neither decides which cells come out
MIRAX_FILE = "Slidedat.ini"  # in the folder of a MIRAX slide, which has the name of the slide


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
    start = time.perf_counter()
    folder = slide_folder(Path(out_dir) / reader.name, identity(reader, model, options))
    # Before the folder is opened, because with that goes what is to be overwritten, and the plan may find a mistake.
    folder.check(resume=resume, overwrite=overwrite)
    plan = None if folder.is_finished else make_plan(reader, model, options)
    seconds = Seconds(tissue=time.perf_counter() - start)
    with folder.open(resume=resume, overwrite=overwrite):
        if not folder.is_finished:
            job = Job(reader, model, options, plan or make_plan(reader, model, options))
            Session(job, folder, start, seconds, progress=progress).complete()
        yield summarise(folder)


def slide_folder(directory: Path, identity: dict[str, Any]) -> RunFolder:
    """The output folder of a slide.

    Args:
        directory: of the slide's results.
        identity: of the run, see ``provenance``.

    Raises:
        InputError: it holds a slide.
    """
    if (directory / MIRAX_FILE).is_file():
        raise InputError(f"{directory}: holds the pixels of a MIRAX slide; choose another folder for results")
    return RunFolder(directory, LAYOUT, identity, FREE)


def summarise(folder: RunFolder) -> RunSummary:
    """What there is to say of a finished run, from its record."""
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
