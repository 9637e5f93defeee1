"""Progress bars of the command line: one a command, on standard error, none where it is not a terminal.

What is listened to is taken as it comes (``Any``), so that no module that does the work is imported for its bar.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


def progress_bar(quiet: bool) -> Bar:
    """A progress bar on standard error, so that standard output stays for results; none where nobody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=quiet or not console.is_terminal)


def _show(bar: Bar, name: str, done: float, total: float, note: str = "") -> None:
    """Move the bar's only task, which begins with the first move: a mistake found before that shows no bar."""
    if not bar.task_ids:
        from rich.markup import escape

        bar.add_task(escape(name), total=total, note=note)
    bar.update(bar.task_ids[0], completed=done, total=total, note=note)


def slides_listener(bar: Bar, count: int) -> Callable[[Any, Any], None]:
    """Shows how far slides are, their cells and how fast they come: a listener for ``predict_slides``."""
    start = time.monotonic()
    latest: dict[str, tuple[float, int, float]] = {}  # of each slide: share done, cells and mm2 of this session
    before: dict[str, tuple[int, float]] = {}  # what an earlier session had found
    sums = [0.0, 0, 0.0]

    def listen(slide: Any, progress: Any) -> None:
        cells, area = before.setdefault(slide.name, (progress.cells, progress.mm2))
        now = (progress.tiles / max(progress.tiles_total, 1), progress.cells - cells, progress.mm2 - area)
        for i, (new, old) in enumerate(zip(now, latest.get(slide.name, (0.0, 0, 0.0)), strict=True)):
            sums[i] += new - old
        latest[slide.name] = now
        seconds = max(time.monotonic() - start, 1e-3)
        found = progress.cells if count == 1 else sums[1]
        note = f"{found:,} cells  {sums[1] / seconds:,.0f} cells/s  {sums[2] / seconds:.3f} mm²/s"
        _show(bar, slide.path.name if count == 1 else f"{count} slides", sums[0], count, note)

    return listen


def image_listener(bar: Bar, name: str, what: str = "images") -> Callable[[int, int], None]:
    """Shows how many images (or cells, ...) are done: a listener for ``judge``."""
    return lambda done, total: _show(bar, name, done, total, f"{done:,} of {total:,} {what}")


def row_listener(bar: Bar, name: str) -> Callable[[int, int, str], None]:
    """Shows how many images are embedded, and for which row: a listener for ``probe``."""
    return lambda done, total, row: _show(bar, name, done, total, f"{row}: {done} of {total} images")


def training_listener(bar: Bar, name: str) -> Callable[[Any], None]:
    """Shows steps and loss, and prints what every validation found and what is wrong: a listener for ``train``."""
    told = ""

    def listen(progress: Any) -> None:
        nonlocal told
        note = f"step {progress.step}  loss {progress.loss:.3f}  {progress.images_per_second:.1f} images/s"
        _show(bar, name, progress.step, progress.steps, note)
        if progress.validation:
            shown = "  ".join(f"{k} {v:.3f}" for k, v in progress.validation.items() if v is not None)
            bar.console.print(f"step {progress.step}: {shown}")
        if progress.warning and progress.warning != told:
            bar.console.print(f"warning: step {progress.step}: {progress.warning}", style="yellow")
            told = progress.warning

    return listen


def sampling_listener(bar: Bar) -> Callable[[Any], None]:
    """Shows slides, patches and nuclei of a patch set: a listener for ``sample_slides``."""

    def listen(progress: Any) -> None:
        note = f"{progress.slide}: {progress.patches:,} patches, {progress.nuclei:,} nuclei in all"
        _show(bar, f"{progress.slides} slide{'s' * (progress.slides != 1)}", progress.done, progress.slides, note)

    return listen


def stage_listener(bar: Bar, name: str) -> Callable[[float], None]:
    """Shows the share that is done of one stage of several; the stage before it leaves the screen."""
    for task in list(bar.task_ids):
        bar.remove_task(task)
    return lambda share: _show(bar, name, share, 1.0)
