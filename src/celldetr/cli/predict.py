"""``celldetr predict`` and ``demo``: the cells of slides."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.messages import complain, note, with_options
from celldetr.cli.options import Formats, Head, Out, Overwrite, Quiet, Resume
from celldetr.cli.progress import Progress, slides_listener
from celldetr.cohort.options import ClusterSettings, CohortOptions
from celldetr.config import InferenceOptions
from celldetr.errors import InputError, UntypedWarning, untyped
from celldetr.io.safe_io import shown_path
from celldetr.slide.options import PredictOptions

if TYPE_CHECKING:
    from celldetr.cohort.forecast import Forecast
    from celldetr.cohort.request import Outcome, Request
    from celldetr.slide.find import Slide

FAILED = 2  # exit code: there is no result
PARTIAL = 3  # exit code: there is a result, and slides, or places of a slide, are missing in it
NAMED = 10  # places that are listed of one slide


@resumable()
@with_settings
def predict(
    *,
    slides: Annotated[
        list[Path],
        typer.Argument(
            metavar="SLIDE",
            help="What OpenSlide reads, TIFF (plain, OME), PNG, JPEG; a folder of slides; a list (.txt, .csv).",
        ),
    ],
    out: Out,
    formats: Formats = None,
    inference: Annotated[
        InferenceOptions,
        Fields("model=--model,-m", "threshold", "device", "precision", "orientations", "boxes=--boxes"),
    ],
    roi: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only cells inside the annotations of this GeoJSON file, as QuPath has it."),
    ] = None,
    roi_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only annotations of this name or class; default: all.")
    ] = None,
    options: Annotated[
        PredictOptions,
        Fields("roi_origin", "region", "mpp", "tile", "overlap", "batch_size", "tissue=--tissue/--all-tiles"),
    ],
    head: Head = None,
    cohort: Annotated[CohortOptions, Fields("cluster", "task_tiles")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Find every cell of slides.

    OUT/SLIDE/ gets cells.parquet, run.json, overview.png and summary.html. Of several slides OUT/cohort.parquet and
    cohort.html sum up.

    Exit code 0: all done; 2: no slide is done, an option cannot be used, or the disk is full; 3: done in part, some
    slides have failed or are damaged in places, which are named; 130 or 143: interrupted, continue with --resume.
    """
    from celldetr.cells.export import check_formats
    from celldetr.cohort.request import Request
    from celldetr.cohort.schedulers import read_cluster
    from celldetr.slide.find import find_slides, is_cohort
    from celldetr.slide.reader import open_slide

    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; `out` must be a folder, in which each slide gets one of its own")
    found = find_slides(slides, out)
    # What can be checked at once is checked before seconds are spent on a model.
    check_formats(formats or ())
    where = read_cluster(cohort.cluster) if cohort.cluster else None
    if roi is not None or roi_name is not None:
        options = options.model_copy(update={"roi": _roi(roi, roi_name, len(found))})
    if len(found) == 1:
        open_slide(found[0].path, found[0].mpp or options.mpp).close()
    if head is not None:
        from celldetr.model.checkpoint import read_card
        from celldetr.model.hub import find_model
        from celldetr.teach.head_file import load_fitting

        card = read_card(find_model(inference.model))
        load_fitting(head, card.sha256, card.config.embedding_dim)
    request = Request(out, inference, options, tuple(formats or ()), resume, overwrite, cohort.task_tiles, head)
    if dry_run:
        from celldetr.cohort.forecast import forecast

        code = report_forecast(forecast(found, request), where)
    else:
        note_untyped(inference.model)
        code = run_slides(found, request, where, sum_up=is_cohort(slides) or where is not None, quiet=quiet)
    if code:
        raise typer.Exit(code)


@resumable()
@with_settings
def demo(
    *,
    out: Out = Path("demo"),
    inference: Annotated[InferenceOptions, Fields("device")],
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Find every cell of the sample slide.

    As predict does, with exports for QuPath (GeoJSON), scverse (AnnData) and spreadsheets (CSV).
    """
    from celldetr.cohort.request import Request
    from celldetr.demo_slide import sample_slide
    from celldetr.slide.find import Slide

    request = Request(out, inference, formats=("geojson", "anndata", "csv"), resume=resume, overwrite=overwrite)
    if code := run_slides([Slide(sample_slide())], request, None, sum_up=False, quiet=quiet):
        raise typer.Exit(code)


def _roi(path: Path | None, name: str | None, slides: int) -> str | None:
    """The annotations of a file as WKT."""
    if path is None:
        raise InputError(f"`roi_name={name}`: says which annotations of `roi`, which is missing")
    if slides > 1:
        raise InputError(f"`roi={path}`: is drawn on one slide, but {slides} are given; run them one by one")
    from celldetr.slide.roi import read_roi, roi_text

    return roi_text(read_roi(path, name))


def note_untyped(model: str | None) -> None:
    """Say of a model that was pretrained without types, and of no other, that it types no cell."""
    from celldetr.model.checkpoint import read_card
    from celldetr.model.hub import find_model

    card = read_card(find_model(model))
    if not card.types_trained:
        warnings.simplefilter("ignore", UntypedWarning)  # said here, in one line
        note(untyped(card.name))


def run_slides(
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
        quiet: no progress, no notes on what is waited for.
    """
    from celldetr.cohort.run import predict_slides

    start = time.monotonic()
    outcomes: list[Outcome] = []

    with Progress("predict", quiet) as progress:
        listener = slides_listener(progress, len(slides))
        for outcome in predict_slides(slides, request, cluster, listener, progress.say):
            outcomes.append(outcome)
            with progress.paused():
                report_outcome(outcome)
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


def report_outcome(outcome: Outcome) -> None:
    """Say how it ended with a slide: a result to standard output, what is wrong to standard error."""
    summary = outcome.summary
    if summary is None:
        complain(outcome.reason)
        return
    by_type = ", ".join(f"{count:,} {name}" for name, count in summary.counts.items())
    found = f"{summary.cells:,} cells ({by_type}) on {summary.tissue_mm2:.2f} mm² in {summary.seconds:.0f} s"
    typer.echo(f"{summary.directory}: {found}")
    for warning in summary.warnings:
        typer.echo(f"  note: {with_options(warning)}", err=True)
    for tile in summary.failed_tiles[:NAMED]:
        place = f"{tile.w_px:.0f} x {tile.h_px:.0f} px at ({tile.x_px:.0f}, {tile.y_px:.0f})"
        typer.echo(f"  missing: {place}: {tile.reason}", err=True)
    if len(summary.failed_tiles) > NAMED:
        typer.echo(f"  ... and {len(summary.failed_tiles) - NAMED:,} more, see failed_tiles in run.json", err=True)


def report_forecast(forecasts: Iterable[Forecast], cluster: str | ClusterSettings | None) -> int:
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
            typer.echo(f"{shown_path(item.slide.path)}: would fail: {with_options(item.reason)}")
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
        f"{slides} slide{'s' * (slides != 1)}: {slides - failed - finished} to do, {finished} finished, "
        f"{failed} would fail; {tissue:.2f} mm² of tissue, {tiles:,} tiles in {tasks:,} task{'s' * (tasks != 1)}, "
        f"{_place(cluster)}; nothing was written"
    )
    return FAILED if failed == slides else PARTIAL if failed else 0


def _place(cluster: str | ClusterSettings | None) -> str:
    if cluster is None:
        return "one slide after the other in this process"
    return f"on {cluster}" if isinstance(cluster, str) else f"on a cluster of kind {cluster.kind}"
