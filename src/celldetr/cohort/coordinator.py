"""Hands regions of slides to the workers of a cluster, and is the only one that commits.

It holds the lock of every slide that is begun, so no other run touches it; each region is given to one worker at a
time, and again to another if that one dies. A slide whose regions are all found is finished by one worker in a folder
of its own; moving those files into place, once, is done here.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from celldetr.cells.schema import RUN
from celldetr.cohort import tasks
from celldetr.cohort.regions import area_of, count_tiles, cut_regions, missing_bands
from celldetr.cohort.request import Listener, Outcome, Request, one_line
from celldetr.errors import InputError
from celldetr.io.files import output_errors, read_json
from celldetr.io.run_folder import RunFolder, check_modes
from celldetr.slide.band_cache import BandCache
from celldetr.slide.engine import LAYOUT, RunSummary, slide_folder, summarise
from celldetr.slide.find import Slide
from celldetr.slide.parts import PARTS, PartStore
from celldetr.slide.pipeline import Seconds
from celldetr.slide.provenance import environment
from celldetr.slide.run import Clock, SlideProgress, begin, keep_or_discard

if TYPE_CHECKING:
    from distributed import Client, Future

AHEAD = 3  # tasks a worker that are handed out before they can begin, so that none waits for this process
RETRIES = 2  # after an error that is not the user's; a worker that dies is counted by the scheduler
LOOK = 2.0  # seconds between two counts of the workers
AGAIN = "what is finished is kept, run again with `resume=True` to continue"


def move_results(attempt: Path, directory: Path) -> dict[str, Any]:
    """Move what an attempt has made into a slide's directory, but its record, which is returned."""
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


@dataclass
class Begun:
    """A slide in tasks.

    Attributes:
        slide: which.
        start: ``time.perf_counter`` of that.
        stack: holds its folder open.
        outlined, outline: what is known of it, where it is on the cluster and here; None until it is looked at.
        folder: of its results; None until it is looked at.
        record: of the run before this session.
        tasks: keys of the tasks that are handed out -> their futures.
        seconds: spent on it in this session, added up over workers.
        tiles, cells, mm2: detected so far.
    """

    slide: Slide
    start: float
    stack: ExitStack = field(default_factory=ExitStack)
    outlined: Future | None = None
    outline: tasks.Outline | None = None
    folder: RunFolder | None = None
    record: dict[str, Any] = field(default_factory=dict)
    tasks: dict[Any, Future] = field(default_factory=dict)
    seconds: Seconds = field(default_factory=Seconds)
    tiles: int = 0
    cells: int = 0
    mm2: float = 0.0


class Coordinator:
    """Predicts slides on a cluster.

    Args:
        client: connected to its scheduler.
        request: what is wanted of every slide.
        listener: told how far each slide is.
    """

    def __init__(self, client: Client, request: Request, listener: Listener | None = None) -> None:
        check_modes(request.resume, request.overwrite)
        self._client = client
        self._request = request
        self._listener = listener
        self._done: SimpleQueue[Future] = SimpleQueue()
        self._begun: list[Begun] = []
        self._left = 0
        self._workers = (0.0, 1)  # when counted, and how many

    def run(self, slides: Sequence[Slide]) -> Iterator[Outcome]:
        """Predict slides; each gives its outcome when it is done, so not in their order.

        Raises:
            InputError: the scheduler is gone.
        """
        todo, self._left = deque(slides), len(slides)
        try:
            while todo or self._begun:
                while todo and sum(len(begun.tasks) for begun in self._begun) < AHEAD * self._count_workers():
                    self._begin(todo.popleft())
                outcome = self._next()
                if outcome is not None:
                    self._left -= 1
                    yield outcome
        except BaseException as error:
            for begun in list(self._begun):
                self._give_up(begun, error)
            raise

    def _begin(self, slide: Slide) -> None:
        begun = Begun(slide, time.perf_counter())
        self._begun.append(begun)
        folder = RunFolder(self._request.out / slide.name, LAYOUT)
        if self._request.resume:
            with suppress(InputError):  # told when the folder is opened
                folder.check(resume=True)
        if folder.is_finished:
            self._submit(begun, tasks.revisit, priority=1)
        else:
            # Tasks are given the future, not what it holds: workers pass that on, and find it again if its holder dies.
            begun.outlined = self._submit(begun, tasks.outline, priority=1)

    def _submit(self, begun: Begun, task: Any, *args: Any, priority: int = 0) -> Future:
        """Hand out a task; ``pure=False``: one that was done in an earlier run is not taken for done."""
        future = self._client.submit(
            task, self._request, begun.slide, *args, priority=priority, retries=RETRIES, pure=False
        )
        begun.tasks[future.key] = future
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
        begun = next((begun for begun in self._begun if future.key in begun.tasks), None)
        if begun is None:
            return None  # of a slide that has failed meanwhile
        try:
            answer = future.result()
        except CancelledError:
            self._check_alive()
            raise InputError(f"the scheduler has lost its tasks; {AGAIN}") from None
        except Exception as error:  # what a task died of, after it was tried again
            return self._fail(begun, error)
        del begun.tasks[future.key]
        try:
            return self._follow(begun, answer)
        except InputError as error:
            return self._fail(begun, error)

    def _check_alive(self) -> None:
        if self._client.status not in ("running", "connecting"):
            raise InputError(f"the connection to the scheduler is lost; {AGAIN}")

    def _follow(self, begun: Begun, answer: object) -> Outcome | None:
        if isinstance(answer, tasks.Refusal):
            raise InputError(answer.reason)
        if isinstance(answer, RunSummary):
            return self._end(begun, answer)
        if isinstance(answer, tasks.Outline):
            self._share_out(begun, answer)
        elif isinstance(answer, tasks.Report):
            begun.seconds.read += answer.seconds.read
            begun.seconds.model += answer.seconds.model
            self._count(begun, answer.bands, answer.cells)
        elif isinstance(answer, Path):
            return self._end(begun, self._commit(begun, answer))
        if not begun.tasks:
            elapsed = time.perf_counter() - begun.start
            self._submit(begun, tasks.finish, begun.outlined, begun.record, begun.seconds, elapsed, priority=2)
        return None

    def _share_out(self, begun: Begun, outline: tasks.Outline) -> None:
        """Take the slide's lock and hand out the regions that are not found yet."""
        request, plan = self._request, outline.plan
        folder = slide_folder(request.out / begun.slide.name, outline.identity)
        begun.stack.enter_context(folder.open(resume=request.resume, overwrite=request.overwrite))
        if folder.is_finished:
            raise InputError(f"{folder.path}: another run has just finished it; run again with `resume=True`")
        begun.outline, begun.folder, begun.record = outline, folder, dict(folder.record)
        begun.seconds.tissue = outline.seconds
        begin(folder)
        with output_errors(folder.path):
            (folder.path / PARTS).mkdir(exist_ok=True)
        todo = missing_bands(plan, *self._stores(begun, folder))
        self._count(begun, set(plan.bands) - set(todo), 0)
        # A slide is shared by all workers if there are few slides, and by few if there are many.
        share = count_tiles(plan, todo) * self._left // (2 * self._count_workers())
        regions = cut_regions(plan, todo, max(1, min(request.task_tiles, share)))
        for bands in regions:
            self._submit(begun, tasks.find, begun.outlined, tuple(bands))

    def _commit(self, begun: Begun, attempt: Path) -> RunSummary:
        """Move a finished attempt's files into place, and finish the run."""
        assert begun.folder is not None
        begun.folder.finish(**move_results(attempt, begun.folder.path))
        return summarise(begun.folder)

    def _end(self, begun: Begun, summary: RunSummary) -> Outcome:
        self._begun.remove(begun)
        begun.stack.close()
        return Outcome(begun.slide, summary)

    def _fail(self, begun: Begun, error: Exception) -> Outcome:
        self._give_up(begun, error)
        return Outcome(begun.slide, None, one_line(error))

    def _give_up(self, begun: Begun, error: BaseException) -> None:
        """Call back what is handed out, leave what can be resumed, and let go of the slide."""
        self._begun.remove(begun)
        with suppress(Exception):  # the scheduler may be why we give up
            self._client.cancel(list(begun.tasks.values()), force=True)
        if begun.folder is not None and begun.outline is not None:
            facts = Clock(begun.record, begun.start, begun.seconds).facts() | environment()
            keep_or_discard(begun.folder, *self._stores(begun, begun.folder), begun.outline.plan.bands, facts)
        begun.stack.__exit__(type(error), error, error.__traceback__)  # puts the error on record

    def _stores(self, begun: Begun, folder: RunFolder) -> tuple[PartStore, BandCache]:
        assert begun.outline is not None
        parts = PartStore(folder.path, begun.outline.types, begun.outline.embedding_dim)
        return parts, BandCache(folder.path, folder.request)

    def _count(self, begun: Begun, bands: Sequence[int] | set[int], cells: int) -> None:
        if begun.outline is None:
            return
        plan = begun.outline.plan
        begun.tiles += count_tiles(plan, bands)
        begun.mm2 += area_of(plan, bands)
        begun.cells += cells
        if self._listener is not None:
            total = count_tiles(plan, plan.bands)
            self._listener(begun.slide, SlideProgress(begun.tiles, total, begun.mm2, begun.cells))

    def _count_workers(self) -> int:
        """How many there are, at least one; asked now and then, because they come and go."""
        counted, workers = self._workers
        if time.monotonic() - counted > LOOK:
            with suppress(OSError, TimeoutError):
                workers = max(1, len(self._client.nthreads()))
            self._workers = (time.monotonic(), workers)
        return self._workers[1]
