"""What ``predict`` says while it goes through slides, and the exit code that sums it up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from celldetr.cli.progress import progress_bar, slides_listener
from celldetr.io.safe_io import shown_path

if TYPE_CHECKING:
    from celldetr.cohort.forecast import Forecast
    from celldetr.cohort.request import Outcome, Request
    from celldetr.cohort.schedulers import ClusterSettings
    from celldetr.slide.find import Slide

FAILED = 2  # exit code: there is no result
PARTIAL = 3  # exit code: there is a result, and slides, or places of a slide, are missing in it
NAMED = 10  # places that are told of one slide


def predict_and_tell(
    slides: Sequence[Slide],
    request: Request,
    cluster: str | ClusterSettings | None,
    *,
    sum_up: bool,
    quiet: bool,
) -> int:
    """Predict slides, say how it went with each, and sum up; returns the exit code.

    Args:
        slides: to be predicted.
        request: what is wanted of each.
        cluster: where; None: here.
        sum_up: write ``cohort.parquet`` and ``cohort.html``.
        quiet: no progress bar, no notes on what is waited for.
    """
    from celldetr.cohort.run import predict_slides

    start = time.monotonic()
    outcomes: list[Outcome] = []

    def note(text: str) -> None:
        if not quiet:
            typer.echo(text, err=True)

    with progress_bar(quiet) as bar:
        for outcome in predict_slides(slides, request, cluster, slides_listener(bar, len(slides)), note):
            outcomes.append(outcome)
            bar.stop()  # while it is shown, what goes to standard output would go to it
            tell(outcome)
            if len(outcomes) < len(slides):
                bar.start()
    if sum_up:
        typer.echo(_sum_up(request.out, outcomes, time.monotonic() - start))
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if len(failed) == len(slides):
        return FAILED
    return PARTIAL if any(outcome.status != "complete" for outcome in outcomes) else 0


def _sum_up(out: Path, outcomes: Sequence[Outcome], seconds: float) -> str:
    from celldetr.cohort.table import write_cohort
    from celldetr.report.cohort import write_cohort_page

    page = write_cohort_page(write_cohort(out, outcomes, seconds))
    done = [outcome.summary for outcome in outcomes if outcome.summary is not None]
    failed = len(outcomes) - len(done)
    found = f"{sum(summary.cells for summary in done):,} cells on {sum(s.tissue_mm2 for s in done):.2f} mm²"
    return f"{len(done)} of {len(outcomes)} slides{f', {failed} failed' * bool(failed)}: {found}; see {page}"


def tell(outcome: Outcome) -> None:
    """Say how it ended with a slide: a result to standard output, what is wrong to standard error."""
    summary = outcome.summary
    if summary is None:
        complain(outcome.reason)
        return
    by_type = ", ".join(f"{count:,} {name}" for name, count in summary.counts.items())
    found = f"{summary.cells:,} cells ({by_type}) on {summary.tissue_mm2:.2f} mm² in {summary.seconds:.0f} s"
    typer.echo(f"{summary.directory}: {found}")
    for warning in summary.warnings:
        typer.echo(f"  note: {warning}", err=True)
    for tile in summary.failed_tiles[:NAMED]:
        place = f"{tile.w_px:.0f} x {tile.h_px:.0f} px at ({tile.x_px:.0f}, {tile.y_px:.0f})"
        typer.echo(f"  missing: {place}: {tile.reason}", err=True)
    if len(summary.failed_tiles) > NAMED:
        typer.echo(f"  ... and {len(summary.failed_tiles) - NAMED:,} more, see failed_tiles in run.json", err=True)


def tell_forecast(forecasts: Iterable[Forecast], cluster: str | ClusterSettings | None) -> int:
    """Say what a run would do; returns the exit code that it would have, as far as can be told.

    Args:
        forecasts: of its slides.
        cluster: where it would be done; None: here.
    """
    slides = failed = finished = tiles = tasks = 0
    tissue = 0.0
    for item in forecasts:
        slides += 1
        if item.reason:
            failed += 1
            typer.echo(f"{shown_path(item.slide.path)}: would fail: {item.reason}")
            continue
        finished += item.finished
        tiles, tasks, tissue = tiles + item.tiles_left, tasks + item.tasks, tissue + item.tissue_mm2
        what = (
            f"{item.width:,} x {item.height:,} px at {item.mpp:.4g} um ({item.mpp_source}), {item.tissue_mm2:.2f} mm²"
        )
        todo = f"{item.tiles_left:,} tiles in {item.tasks:,} task{'s' * (item.tasks != 1)}"
        if item.finished:
            todo = "is finished, would be kept"
        elif item.tiles_left < item.tiles:
            todo += f", {item.tiles - item.tiles_left:,} tiles are done"
        typer.echo(f"{shown_path(item.slide.path)}: {what}; {todo}; to {item.directory}")
    typer.echo(
        f"{slides} slides: {slides - failed - finished} to do, {finished} finished, {failed} would fail; "
        f"{tissue:.2f} mm² of tissue, {tiles:,} tiles in {tasks:,} tasks, {_place(cluster)}; nothing was written"
    )
    return FAILED if failed == slides else PARTIAL if failed else 0


def _place(cluster: str | ClusterSettings | None) -> str:
    if cluster is None:
        return "one slide after the other in this process"
    return f"on {cluster}" if isinstance(cluster, str) else f"on a cluster of kind {cluster.kind}"


def complain(error: Exception | str) -> None:
    """Say what is wrong, on one line."""
    typer.echo(f"error: {' '.join(str(error).split())}", err=True)
