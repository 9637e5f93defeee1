"""Tasks of a worker on a cluster: plan a slide, detect the cells of a region, finish the slide.

Workers are stateless and tasks idempotent. *Planning* writes nothing. *Detecting* writes whole files whose content
depends on the run only. *Finishing* builds the slide's results in a folder of its own and returns it; the coordinator
moves the files of one such folder into place. A worker that was taken for dead and wakes up later therefore changes
nothing: it writes files that are there, or finds its folder gone.

An error that the user can mend is returned as a ``Refusal``, because dask tries a task that raises again elsewhere.
"""

from __future__ import annotations

import platform
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, wraps
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from uuid import uuid4

from celldetr.cohort.request import Request
from celldetr.config import InferenceOptions
from celldetr.errors import InputError
from celldetr.io.files import output_errors
from celldetr.slide.band_cache import PARTS, BandCache
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.engine import ATTEMPTS, RunSummary, Session, slide_folder
from celldetr.slide.find import Slide
from celldetr.slide.pipeline import Job, Seconds, detect_bands
from celldetr.slide.plan import Plan, checked_plan
from celldetr.slide.provenance import identity
from celldetr.slide.reader import open_slide

if TYPE_CHECKING:
    from celldetr.model.inference import TilePredictor

P = ParamSpec("P")
T = TypeVar("T")

_one_at_a_time = threading.Lock()  # tasks of a process: each uses all the cores that the process may


@dataclass(frozen=True)
class Refusal:
    """Why a task cannot be done, there or elsewhere: the text of an ``InputError``."""

    reason: str


@dataclass(frozen=True)
class PlannedSlide:
    """A slide before a tile is read; ``seconds`` that planning took."""

    identity: dict[str, Any]
    plan: Plan
    seconds: float


@dataclass(frozen=True)
class DetectedRegion:
    """A region whose bands are all on disk; ``cells`` and ``seconds`` are of those detected by this task."""

    bands: tuple[int, ...]
    cells: int
    seconds: Seconds


def _task(work: Callable[P, T]) -> Callable[P, T | Refusal]:
    """Make a function a task: one at a time, ``InputError`` as ``Refusal``, refusals among its arguments passed on."""

    @wraps(work)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T | Refusal:
        for argument in args:
            if isinstance(argument, Refusal):
                return argument
        with _one_at_a_time:
            try:
                return work(*args, **kwargs)
            except InputError as error:
                return Refusal(str(error))

    return wrapped


@lru_cache(maxsize=1)
def _model(options: InferenceOptions) -> TilePredictor:
    from celldetr.model.inference import TilePredictor

    return TilePredictor.load(options)


@_task
def plan_slide(request: Request, slide: Slide) -> PlannedSlide:
    """Open a slide and lay out its tiles."""
    model, options = _model(request.model), request.options_of(slide)
    with open_slide(slide.path, options.mpp) as reader:
        start = time.perf_counter()
        plan = checked_plan(reader, model, options)
        run = identity(reader, model, options)
    return PlannedSlide(run, plan, time.perf_counter() - start)


@_task
def complete_outputs(request: Request, slide: Slide) -> RunSummary:
    """Make the pictures and exports that a finished slide lacks."""
    from celldetr.cohort.predict import predict_requested

    return predict_requested(slide, request, _model(request.model))


@_task
def detect_region(request: Request, slide: Slide, planned: PlannedSlide, bands: tuple[int, ...]) -> DetectedRegion:
    """Detect the cells in the tiles of a region; bands that are on disk are passed over."""
    cache = BandCache(request.out / slide.name, planned.identity)
    todo = cache.missing(bands)
    seconds, cells = Seconds(), 0
    if todo:
        _working_folder(request, slide)
        with open_slide(slide.path, request.options_of(slide).mpp) as reader:
            job = _job(request, slide, planned, reader)
            with closing(detect_bands(job, todo, seconds)) as batches:
                for band, items in groupby(chain.from_iterable(batches), key=lambda item: item.tile.row):
                    tiles = list(items)
                    cache.write(band, tiles)
                    cells += sum(len(tile.cells) for tile in tiles if tile.cells is not None)
    return DetectedRegion(bands, cells, seconds)


@_task
def finish_slide(
    request: Request, slide: Slide, planned: PlannedSlide, record: dict[str, Any], seconds: Seconds, elapsed: float
) -> Path:
    """Settle the seams between tiles, join the table, draw and export, in a folder of this attempt, which is returned.

    A band whose file is missing or damaged is detected again here. ``record`` is that of the run before this session,
    ``seconds`` were spent on the regions by all workers, ``elapsed`` are those since the session began.
    """
    from celldetr.cohort.predict import write_outputs  # not needed where tasks are handed out

    directory = request.out / slide.name
    attempt = _working_folder(request, slide) / ATTEMPTS.strip("/").replace("*", uuid4().hex)
    start = time.perf_counter() - elapsed
    try:
        with output_errors(attempt), open_slide(slide.path, request.options_of(slide).mpp) as reader:
            job = _job(request, slide, planned, reader)
            folder = slide_folder(attempt / slide.name, planned.identity)
            with folder.open():
                folder.record = record
                Session(job, folder, start, seconds, BandCache(directory, planned.identity)).complete()
                write_outputs(folder.path, reader, request.formats)
    except BaseException:
        shutil.rmtree(attempt, ignore_errors=True)
        raise
    return folder.path


def _job(request: Request, slide: Slide, planned: PlannedSlide, reader: SlideReader) -> Job:
    """The job on a slide here, where it must be the same as where the slide was planned."""
    model, options = _model(request.model), request.options_of(slide)
    here = slide_folder(request.out / slide.name, identity(reader, model, options))
    if wrong := here.changes(planned.identity):
        raise InputError(
            f"{slide.path}: worker {platform.node()} would find other cells, it has {'; '.join(wrong)}; "
            "all workers need the same version, model, precision and files"
        )
    return Job(reader, model, options, planned.plan)


def _working_folder(request: Request, slide: Slide) -> Path:
    folder = request.out / slide.name / PARTS
    if not folder.is_dir():
        raise InputError(
            f"{folder}: not seen from {platform.node()}; the output folder must be on a file system that all workers "
            "share, under one name"
        )
    return folder
