"""The command line: parse, call, report; no logic.

A user's mistake is one line on standard error and exit code 2, as are wrong options; 3 says that a result has gaps; an
interruption is exit code 130 (SIGINT) or 143 (SIGTERM).
Results go to standard output, progress and notes to standard error. Heavy imports happen inside commands, so that
``--help`` is quick.
"""

from __future__ import annotations

import errno
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from celldetr.cli import checks
from celldetr.cli.data import data_app
from celldetr.cli.evaluate import evaluate, probe, rotations, threshold
from celldetr.cli.options import (
    Device,
    ModelName,
    Orientations,
    Out,
    Overwrite,
    PrecisionName,
    Quiet,
    Resume,
    resumable,
)
from celldetr.cli.predict import complain, predict_and_tell, tell_forecast
from celldetr.cli.search import cluster, index, similar
from celldetr.cli.spatial import spatial_app
from celldetr.cli.train import ablate, explain, pretrain, train
from celldetr.errors import InputError

app = typer.Typer(
    name="celldetr",
    help="Every nucleus of an H&E slide located, typed and embedded.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Start with:  celldetr demo -o demo     Then:  celldetr predict SLIDE -o OUT",
)


@app.callback(invoke_without_command=True)
def common(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Every nucleus of an H&E slide located, typed and embedded."""
    if version:
        from celldetr import __version__

        typer.echo(__version__)
        raise typer.Exit
    # A damaged TIFF makes tifffile log lines of its own beside our one.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())


@app.command()
@resumable()
def predict(
    slides: Annotated[
        list[Path],
        typer.Argument(
            metavar="SLIDE",
            help="What OpenSlide reads, TIFF (plain, OME), PNG, JPEG; a folder of slides; a list (.txt, .csv).",
        ),
    ],
    out: Out,
    model: ModelName = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel at full resolution, instead of what the file says.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", "-f", help="Also write geojson (QuPath), anndata (scanpy), csv, spatialdata; repeat for more."
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least score of a cell, 0 to 1.", show_default="the model's own")
    ] = None,
    region: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="X Y WIDTH HEIGHT: only this part, in pixels at full resolution."),
    ] = None,
    roi: Annotated[
        Path | None, typer.Option(help="Only cells inside the annotations of this GeoJSON file, as QuPath exports it.")
    ] = None,
    roi_name: Annotated[
        str | None, typer.Option(help="Only annotations of this name or class.", show_default="all in the file")
    ] = None,
    roi_origin: Annotated[
        str, typer.Option(help="Where its pixels count from: bounds (as QuPath shows the slide) or slide.")
    ] = "bounds",
    tile: Annotated[
        int | None,
        typer.Option(
            help="Side of a tile, px at the model's resolution; smaller needs less memory.",
            show_default="768, or what a model needs that knows images of one size",
        ),
    ] = None,
    overlap: Annotated[int, typer.Option(help="Px that neighbouring tiles share; more than the largest nucleus.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Tiles the network sees at once.")] = 4,
    all_tiles: Annotated[bool, typer.Option("--all-tiles", help="Also read where no tissue was found.")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(help="Share the work out: local (a process a GPU), tcp://HOST:PORT, or a YAML file (Slurm, ...)."),
    ] = None,
    task_tiles: Annotated[int, typer.Option(min=1, help="With --cluster: least tiles of a task.")] = 128,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    device: Device = "auto",
    precision: PrecisionName = "auto",
    orientations: Orientations = 1,
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Find every cell of slides: OUT/SLIDE/ gets cells.parquet, run.json, overview.png and summary.html.

    Of several slides OUT/cohort.parquet and cohort.html sum up. Exit code 0: all done; 2: no slide is done, an option
    cannot be used, or the disk is full; 3: done in part, some slides have failed or are damaged in places, which are
    named; 130 or 143: interrupted, continue with --resume.
    """
    from celldetr.cells.export import check_formats
    from celldetr.cohort.request import ModelChoice, Request
    from celldetr.config import parse
    from celldetr.slide.find import find_slides, is_cohort
    from celldetr.slide.options import PredictOptions
    from celldetr.slide.reader import open_slide

    checks.folder(out)
    found = find_slides(slides, out)
    values: dict[str, Any] = {"tile": tile, "overlap": overlap, "batch_size": batch_size, "mpp": mpp, "region": region}
    values |= {"tissue": not all_tiles, "roi": checks.roi_of(roi, roi_name, found), "roi_origin": roi_origin}
    options = parse(PredictOptions, values, "options")
    # What can be told at once is told before seconds are spent on a model.
    check_formats(formats or ())
    where = checks.cluster(cluster)
    if len(found) == 1:
        open_slide(found[0].path, found[0].mpp or mpp).close()
    chosen = ModelChoice(
        model, device, checks.precision(precision), threshold, batch_size, checks.orientations(orientations)
    )
    request = Request(out, chosen, options, tuple(formats or ()), resume, overwrite, task_tiles)
    if dry_run:
        from celldetr.cohort.forecast import forecast

        code = tell_forecast(forecast(found, request), where)
    else:
        checks.tell_untyped(model)
        sum_up = is_cohort(slides) or where is not None
        code = predict_and_tell(found, request, where, sum_up=sum_up, quiet=quiet)
    if code:
        raise typer.Exit(code)


@app.command()
def demo(
    out: Out = Path("demo"),
    device: Device = "auto",
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Find every cell of the sample slide that comes with the package; also as GeoJSON, AnnData and CSV."""
    from celldetr.demo_slide import sample_slide

    formats = ["geojson", "anndata", "csv"]
    predict([sample_slide()], out, formats=formats, device=device, overwrite=overwrite, resume=resume, quiet=quiet)


@app.command()
def export(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Folder of a finished slide, or its cells.parquet. For onnx: a model."),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", "--format", "-f", help="geojson (QuPath), anndata (scanpy), csv, spatialdata; of a model: onnx."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write.", show_default="beside the table; for onnx, here"),
    ] = None,
    shape: Annotated[str | None, typer.Option(help="geojson: box or ellipse.", show_default="box")] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            help="geojson: what becomes (0, 0): the corner of the slide's bounds, as in QuPath, or of the slide.",
            show_default="bounds",
        ),
    ] = None,
    classify: Annotated[
        str | None,
        typer.Option(
            help="geojson: class of a cell in QuPath: type, or cluster (celldetr cluster).", show_default="type"
        ),
    ] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="csv: with the embeddings, in columns e0, e1, ...")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the cells of a finished slide for QuPath, scverse or a spreadsheet; or a model as one ONNX file."""
    from celldetr.cells.export import MODEL_FORMAT, export_cells, find_format

    if to.lower().lstrip(".") == MODEL_FORMAT:
        if shape or origin or classify or embeddings:
            raise InputError("--shape, --origin, --classify and --embeddings are about cells; --to onnx writes a model")
        from celldetr.model.onnx import export_onnx

        typer.echo(export_onnx(source, out, overwrite=overwrite))
        return
    find_format(to, others=[MODEL_FORMAT])
    options: dict[str, Any] = {"shape": shape} if shape else {}
    if origin:
        options["origin"] = origin
    if classify:
        options["classify"] = classify
    if embeddings:
        options["embeddings"] = True
    typer.echo(export_cells(source, to, out, overwrite=overwrite, **options))


for command in (train, pretrain, evaluate, threshold, probe, rotations, explain, ablate, index, similar, cluster):
    app.command()(command)
app.add_typer(data_app)
app.add_typer(spatial_app)


@app.command()
def models() -> None:
    """List the models that can be used by name, with licence and metrics."""
    from rich.console import Console

    from celldetr.model.hub import cards
    from celldetr.report.models import models_table

    Console().print(models_table(cards()))


@app.command()
def doctor() -> None:
    """Print versions, devices, threads, readers and weights found; exit code 1 if something essential is broken."""
    from celldetr.doctor import collect, report

    diagnosis = collect()
    typer.echo(report(diagnosis, colour=sys.stdout.isatty()))
    if diagnosis["problems"]:
        raise typer.Exit(1)


def main() -> None:
    """Entry point: a user's mistake, or a full disk wherever it is met, becomes one line and exit code 2."""
    try:
        app()
    except InputError as error:
        complain(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        complain(f"{error.filename or 'output'}: the disk is full; free some space and run again")
    else:
        return
    sys.exit(2)


if __name__ == "__main__":
    main()
