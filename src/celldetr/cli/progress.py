"""Progress of the commands on standard error: a bar on a terminal, elsewhere (Slurm, CI) a line every half minute.

What is listened to is taken as it comes (``Any``), so that no module that does the work is imported for its bar.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

LINE_SECONDS = 30.0


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


@dataclass
class State:
    """How far a task is."""

    name: str
    done: float = 0.0
    total: float = 1.0
    note: str | None = None  # None: nothing is known yet
    first: float = 0.0  # what was done when it was first shown, as of a resumed run
    start: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """The state in one line: share, note, elapsed and remaining time."""
        seconds = time.monotonic() - self.start
        parts = [f"{_clock(seconds)} elapsed"]
        if self.note is not None and self.total:
            parts = [f"{self.done / self.total:.0%}", self.note, *parts]
        if self.done > self.first:
            parts.append(f"{_clock(seconds * (self.total - self.done) / (self.done - self.first))} left")
        return f"{self.name}: {', '.join(part for part in parts if part)}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class Progress:
    """Shows one task at a time until the ``with`` block ends; a bar begins with the first call of ``show``.

    Args:
        name: of the command, for lines before the first call.
        quiet: show nothing.
        seconds: between lines where standard error is not a terminal.
    """

    def __init__(self, name: str, quiet: bool = False, seconds: float = LINE_SECONDS) -> None:
        self._quiet = quiet
        self._seconds = seconds
        self._state = State(name)
        self._end = threading.Event()
        self._bar: Bar | None = None
        self._lines: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._quiet:
            return self
        if sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
        else:
            self._lines = threading.Thread(target=self._print_lines, name="progress", daemon=True)
            self._lines.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        if self._bar is not None:
            self._bar.stop()
        if self._lines is not None:
            self._lines.join()

    def _print_lines(self) -> None:
        while not self._end.wait(self._seconds):
            typer.echo(self._state.line(), err=True)

    def show(self, name: str, done: float, total: float, note: str = "") -> None:
        """Say how far a task is; another name begins another task."""
        if self._state.note is None or self._state.name != name or self._state.done > done:
            self._state = State(name, first=done)
            if self._bar is not None:
                for task in list(self._bar.task_ids):
                    self._bar.remove_task(task)
                self._bar.add_task(name, total=total, note=note)
        self._state.done, self._state.total, self._state.note = done, total, note
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, note=note)

    def say(self, text: str, *, warning: bool = False) -> None:
        """Print a line that stays, above the bar; with ``quiet`` warnings only."""
        if self._bar is not None:
            self._bar.console.print(text, style="yellow" if warning else "", markup=False, highlight=False)
        elif warning or not self._quiet:
            typer.echo(text, err=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar off the screen while something is printed to standard output."""
        if self._bar is not None:
            self._bar.stop()
        yield
        if self._bar is not None:
            self._bar.start()

    def counter(self, name: str, what: str = "") -> Callable[..., None]:
        """A callback ``(done, total, note="")`` that shows the number of ``what`` done, or else the share."""

        def show(done: float, total: float, note: str = "") -> None:
            count = f"{done:,} of {total:,} {what}" if what else ""
            self.show(name, done, total, f"{note}: {count}" if note and count else note or count)

        return show

    def share(self, name: str) -> Callable[[float], None]:
        """A callback that shows the share of a task that is done."""
        return lambda done: self.show(name, done, 1.0)


def slides_listener(progress: Progress, count: int) -> Callable[[Any, Any], None]:
    """Shows how far slides are, their cells and how fast they come: a listener for ``predict_slides``."""
    start = time.monotonic()
    latest: dict[str, tuple[float, int, float]] = {}  # of each slide: share done, cells and mm2 of this session
    before: dict[str, tuple[int, float]] = {}  # what an earlier session had found
    sums = [0.0, 0, 0.0]

    def listen(slide: Any, state: Any) -> None:
        cells, area = before.setdefault(slide.name, (state.cells, state.mm2))
        now = (state.tiles / max(state.tiles_total, 1), state.cells - cells, state.mm2 - area)
        for i, (new, old) in enumerate(zip(now, latest.get(slide.name, (0.0, 0, 0.0)), strict=True)):
            sums[i] += new - old
        latest[slide.name] = now
        seconds = max(time.monotonic() - start, 1e-3)
        found = state.cells if count == 1 else sums[1]
        note = f"{found:,} cells  {sums[1] / seconds:,.0f} cells/s  {sums[2] / seconds:.3f} mm²/s"
        progress.show(slide.path.name if count == 1 else f"{count} slides", sums[0], count, note)

    return listen


def training_listener(progress: Progress, name: str) -> Callable[[Any], None]:
    """Shows steps and loss, and prints what every validation found and what is wrong: a listener for ``train``."""
    said = ""

    def listen(state: Any) -> None:
        nonlocal said
        note = f"step {state.step}  loss {state.loss:.3f}  {state.images_per_second:.1f} images/s"
        progress.show(name, state.step, state.steps, note)
        if state.validation:
            shown = "  ".join(f"{k} {v:.3f}" for k, v in state.validation.items() if v is not None)
            progress.say(f"step {state.step}: {shown}")
        if state.warning and state.warning != said:
            progress.say(f"warning: step {state.step}: {state.warning}", warning=True)
            said = state.warning

    return listen


def sampling_listener(progress: Progress) -> Callable[[Any], None]:
    """Shows slides, patches and nuclei of a patch set: a listener for ``sample_slides``."""

    def listen(state: Any) -> None:
        note = f"{state.slide}: {state.patches:,} patches, {state.nuclei:,} nuclei in all"
        progress.show(f"{state.slides} slide{'s' * (state.slides != 1)}", state.done, state.slides, note)

    return listen
