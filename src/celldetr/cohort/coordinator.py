"""Coordinator of a cluster: hands regions of slides to workers, and is the only process that commits results.

It holds the lock of every slide that is begun, so no other run touches it; each region is given to one worker at a
time, and again to another if that one dies. A slide whose regions are all detected is finished by one worker in a
folder of its own; moving those files into place, once, is done here.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from celldetr.cells.schema import RUN
from celldetr.cohort import tasks
from celldetr.cohort.request import Listener, Outcome, Request, one_line
from celldetr.errors import InputError
from celldetr.io.files import output_errors, read_json
from celldetr.io.run_folder import RunFolder
from celldetr.slide.band_cache import BandCache
from celldetr.slide.engine import (
    LAYOUT,
    RunSummary,
    SlideProgress,
    begin_session,
    keep_or_discard,
    session_times,
    slide_folder,
    summarise,
)
from celldetr.slide.find import Slide
from celldetr.slide.pipeline import Counter
from celldetr.slide.plan import Plan
from celldetr.slide.provenance import environment

if TYPE_CHECKING:
    from distributed import Client, Future

AHEAD = 3  # tasks a worker that are handed out before they can begin, so that none waits for this process
RETRIES = 2  # after an error that is not the user's; a worker that dies is counted by the scheduler
LOOK = 2.0  # seconds between two counts of the workers
AGAIN = "what is finished is kept, run again with `resume=True` to continue"


def move_results(attempt: Path, directory: Path) -> dict[str, Any]:
    """Move the files of an attempt into a slide's directory, but its record, which is returned."""
    record = read_json(attempt / RUN)
    if record is None:
        raise InputError(f"{attempt}: not seen from here; the output folder must be one that all workers share")
    with output_errors(directory):
        for path in attempt.iterdir():
            target = directory / path.name
            if path.name == RUN:
                continue
            if target.is_dir():  # a store of an earlier run, which a folder cannot replace
                shutil.rmtree(target)
            path.replace(target)
    return record


class ClusterSlide:
    """A slide whose tasks are handed out."""

    def __init__(self, slide: Slide, request: Request) -> None:
        self.slide, self._request = slide, request
        self.tasks: dict[Any, Future] = {}  # by key
        # Of its plan tasks are given the future: workers pass the content on, and make it again if its holder dies.
        self.planning: Future | None = None
        self.plan: Plan | None = None
        self.record: dict[str, Any] = {}  # of the run before this session
        self.counter = Counter()  # seconds are added up over workers
        self._start = time.perf_counter()
        self._stack = ExitStack()  # holds the folder open

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._start

    def open(self, planned: tasks.PlannedSlide) -> list[int]:
        """Hold the slide's folder from now on; returns the bands that are to be detected."""
        request, plan = self._request, planned.plan
        folder = slide_folder(request.out / self.slide.name, planned.identity)
        self._stack.enter_context(folder.open(resume=request.resume, overwrite=request.overwrite))
        if folder.is_finished:
            raise InputError(f"{folder.path}: another run has just finished it; run again with `resume=True`")
        self.record = dict(folder.record)
        begin_session(folder)
        self._folder, self.plan = folder, plan
        self._cache = BandCache(folder.path, folder.request)
        self.counter.seconds.tissue = planned.seconds
        missing = self._cache.missing(plan.bands)
        self.count([band for band in plan.bands if band not in missing], 0)
        return missing

    def count(self, bands: Sequence[int], cells: int) -> None:
        """Count bands that are detected."""
        if self.plan is not None:
            self.counter.add(self.plan.count(bands), cells, self.plan.area_of(bands))

    def commit(self, attempt: Path) -> RunSummary:
        """Move a finished attempt's files into place, and finish the run."""
        self._folder.finish(**move_results(attempt, self._folder.path))
        return summarise(self._folder)

    def close(self, error: BaseException | None = None) -> None:
        """Let go of the folder; a run that is not finished is left for resuming, with the error on record."""
        if error is not None and self.plan is not None:
            facts = session_times(self.record, self._start, self.counter.seconds) | environment()
            keep_or_discard(self._folder, facts, self._cache.holds(self.plan.bands))
        self._stack.__exit__(type(error) if error else None, error, None)


class Coordinator:
    """Predicts slides on a cluster; ``listener`` is called with how far each slide is."""

    def __init__(self, client: Client, request: Request, listener: Listener | None = None) -> None:
        self._client, self._request, self._listener = client, request, listener
        self._done: SimpleQueue[Future] = SimpleQueue()
        self._slides: list[ClusterSlide] = []  # in work
        self._left = 0
        self._workers = (0.0, 1)  # when counted, and how many

    def run(self, slides: Sequence[Slide]) -> Iterator[Outcome]:
        """Predict slides; each gives its outcome when it is done, so not in their order."""
        todo, self._left = deque(slides), len(slides)
        try:
            while todo or self._slides:
                while todo and sum(len(slide.tasks) for slide in self._slides) < AHEAD * self._count_workers():
                    self._begin(todo.popleft())
                outcome = self._next()
                if outcome is not None:
                    self._left -= 1
                    yield outcome
        except BaseException as error:
            for slide in list(self._slides):
                self._abandon(slide, error)
            raise

    def _begin(self, slide: Slide) -> None:
        begun = ClusterSlide(slide, self._request)
        self._slides.append(begun)
        folder = RunFolder(self._request.out / slide.name, LAYOUT)
        if self._request.resume:
            with suppress(InputError):  # raised again when the folder is opened
                folder.check(resume=True)
        if folder.is_finished:
            self._submit(begun, tasks.complete_outputs, priority=1)
        else:
            begun.planning = self._submit(begun, tasks.plan_slide, priority=1)

    def _submit(self, slide: ClusterSlide, task: Any, *args: Any, priority: int = 0) -> Future:
        """Hand out a task; ``pure=False``: the result of the same task in an earlier run is not reused."""
        options = {"priority": priority, "retries": RETRIES, "pure": False}
        future = self._client.submit(task, self._request, slide.slide, *args, **options)
        slide.tasks[future.key] = future
        future.add_done_callback(self._done.put)
        return future

    def _next(self) -> Outcome | None:
        """Wait for a task to end, and do what follows from it."""
        while True:
            try:
                future = self._done.get(timeout=LOOK)
                break
            except Empty:
                self._check_alive()
        slide = next((slide for slide in self._slides if future.key in slide.tasks), None)
        if slide is None:
            return None  # it has failed meanwhile
        try:
            result = future.result()
        except CancelledError:
            self._check_alive()
            raise InputError(f"the scheduler has lost its tasks; {AGAIN}") from None
        except Exception as error:  # raised again after the task was tried elsewhere
            return self._fail(slide, error)
        del slide.tasks[future.key]
        try:
            return self._follow(slide, result)
        except InputError as error:
            return self._fail(slide, error)

    def _check_alive(self) -> None:
        if self._client.status not in ("running", "connecting"):
            raise InputError(f"the connection to the scheduler is lost; {AGAIN}")

    def _follow(self, slide: ClusterSlide, result: object) -> Outcome | None:
        """Do what follows from the result of a task."""
        if isinstance(result, tasks.Refusal):
            raise InputError(result.reason)
        if isinstance(result, RunSummary):
            return self._end(slide, result)
        if isinstance(result, Path):
            return self._end(slide, slide.commit(result))
        if isinstance(result, tasks.PlannedSlide):
            self._hand_out_regions(slide, result)
        elif isinstance(result, tasks.DetectedRegion):
            slide.counter.seconds.read += result.seconds.read
            slide.counter.seconds.model += result.seconds.model
            slide.count(result.bands, result.cells)
        self._report(slide)
        if not slide.tasks:
            spent = slide.counter.seconds, slide.elapsed
            self._submit(slide, tasks.finish_slide, slide.planning, slide.record, *spent, priority=2)
        return None

    def _hand_out_regions(self, slide: ClusterSlide, planned: tasks.PlannedSlide) -> None:
        bands = slide.open(planned)
        # A slide is shared by all workers if there are few slides, and by few if there are many.
        share = planned.plan.count(bands) * self._left // (2 * self._count_workers())
        for region in planned.plan.regions(bands, max(1, min(self._request.task_tiles, share))):
            self._submit(slide, tasks.detect_region, slide.planning, tuple(region))

    def _report(self, slide: ClusterSlide) -> None:
        if self._listener is not None and slide.plan is not None:
            done, total = slide.counter, slide.plan.count(slide.plan.bands)
            self._listener(slide.slide, SlideProgress(done.tiles, total, done.mm2, done.cells))

    def _end(self, slide: ClusterSlide, summary: RunSummary) -> Outcome:
        self._slides.remove(slide)
        slide.close()
        return Outcome(slide.slide, summary)

    def _fail(self, slide: ClusterSlide, error: Exception) -> Outcome:
        self._abandon(slide, error)
        return Outcome(slide.slide, None, one_line(error))

    def _abandon(self, slide: ClusterSlide, error: BaseException) -> None:
        """Call back the tasks of a slide, and leave it for resuming."""
        self._slides.remove(slide)
        with suppress(Exception):  # the scheduler may be the reason
            self._client.cancel(list(slide.tasks.values()), force=True)
        slide.close(error)

    def _count_workers(self) -> int:
        """How many there are, at least one; asked now and then, because they come and go."""
        counted, workers = self._workers
        if time.monotonic() - counted > LOOK:
            with suppress(OSError, TimeoutError):
                workers = max(1, len(self._client.nthreads()))
            self._workers = (time.monotonic(), workers)
        return self._workers[1]
