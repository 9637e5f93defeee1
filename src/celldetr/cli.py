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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from celldetr import cli_checks as checks
from celldetr.cli_slides import complain, predict_and_tell, tell_forecast
from celldetr.errors import InputError
from celldetr.interrupt import Interrupted, stoppable
from celldetr.progress import image_listener, progress_bar, training_listener

app = typer.Typer(
    name="celldetr",
    help="Every nucleus of an H&E slide located, typed and embedded.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Start with:  celldetr demo -o demo     Then:  celldetr predict SLIDE -o OUT",
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results, one folder a slide; made if needed.")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Name (see `celldetr models`) or folder of a model.", show_default="small-20x"),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps; auto takes the fastest there is.")]
PrecisionName = Annotated[str, typer.Option("--precision", help="32, bf16, or auto: bf16 where it is native.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run; keep what is finished.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


@contextmanager
def _resumable() -> Iterator[None]:
    """Say what an interruption leaves; typer itself would end without a word."""
    try:
        with stoppable():
            yield
    except KeyboardInterrupt as stop:
        typer.echo("interrupted; what is finished is kept, run again with --resume to continue", err=True)
        raise typer.Exit(stop.code if isinstance(stop, Interrupted) else 130) from None


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
@_resumable()
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
        typer.Option("--format", "-f", help="Also write geojson (QuPath), anndata (scanpy) or csv; repeat for more."),
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
        int, typer.Option(help="Side of a tile, px at the model's resolution; smaller needs less memory.")
    ] = 768,
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
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Find every cell of slides: OUT/SLIDE/ gets cells.parquet, run.json, overview.png and summary.html.

    Of several slides OUT/cohort.parquet and cohort.html sum up. Exit code 0: all done; 2: no slide is done, an option
    cannot be used, or the disk is full; 3: done in part, some slides have failed or are damaged in places, which are
    named; 130 or 143: interrupted, continue with --resume.
    """
    from celldetr.cohort.request import ModelChoice, Request
    from celldetr.cohort.slides import find_slides, is_cohort
    from celldetr.config import parse
    from celldetr.export import find_format
    from celldetr.slide.options import PredictOptions
    from celldetr.slide.reader import open_slide

    found = find_slides(slides, out)
    values: dict[str, Any] = {"tile": tile, "overlap": overlap, "batch_size": batch_size, "mpp": mpp, "region": region}
    values |= {"tissue": not all_tiles, "roi": checks.roi_of(roi, roi_name, found), "roi_origin": roi_origin}
    options = parse(PredictOptions, values, "options")
    # What can be told at once is told before seconds are spent on a model.
    for name in formats or ():
        find_format(name)
    where = checks.cluster(cluster)
    if len(found) == 1:
        open_slide(found[0].path, found[0].mpp or mpp).close()
    chosen = ModelChoice(model, device, checks.precision(precision), threshold, batch_size)
    request = Request(out, chosen, options, tuple(formats or ()), resume, overwrite, task_tiles)
    if dry_run:
        from celldetr.cohort.forecast import forecast

        code = tell_forecast(forecast(found, request), where)
    else:
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
    """Find every cell of the sample slide that comes with the package, and write all formats."""
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
        typer.Option("--to", "--format", "-f", help="Cells: geojson (QuPath), anndata (scanpy), csv. A model: onnx."),
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
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="csv: with the embeddings, in columns e0, e1, ...")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the cells of a finished slide for QuPath, scanpy or a spreadsheet; or a model as one ONNX file."""
    from celldetr.export import MODEL_FORMAT, export_cells, find_format

    if to.lower().lstrip(".") == MODEL_FORMAT:
        if shape or origin or embeddings:
            raise InputError("--shape, --origin and --embeddings are about cells; --to onnx writes a model")
        from celldetr.model.onnx import export_onnx

        typer.echo(export_onnx(source, out, overwrite=overwrite))
        return
    find_format(to, others=[MODEL_FORMAT])
    options: dict[str, Any] = {"shape": shape} if shape else {}
    if origin:
        options["origin"] = origin
    if embeddings:
        options["embeddings"] = True
    typer.echo(export_cells(source, to, out, overwrite=overwrite, **options))


@app.command()
@_resumable()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's name (finetune, small-20x, ...) or YAML file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to it, e.g. training.steps=2000 model.d_model=64"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Own labels instead of the recipe's data: QuPath GeoJSON, CSV or COCO; a folder or a file."),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="With --data: micrometres per pixel of its images, if they do not say it.")
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="With --data: CLASS=TYPE renames or joins classes, CLASS= leaves its cells untyped."
        ),
    ] = None,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(help="Processes that share each batch, each with a device of its own.")] = 1,
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a model: OUT gets model/, log.jsonl, tensorboard/, curves.png and the state to resume from."""
    from celldetr.model.checkpoint import read_card
    from celldetr.recipes import load_recipe
    from celldetr.training.loop import train as run
    from celldetr.training.processes import is_first

    chosen = load_recipe(recipe, settings, checks.own_data(data, mpp, types))
    try:
        with progress_bar(quiet or not is_first()) as bar:
            folder = run(
                chosen,
                out,
                resume=resume,
                overwrite=overwrite,
                device=device,
                devices=devices,
                listener=training_listener(bar, chosen.name),
            )
    except InputError:
        if is_first():
            raise
        raise typer.Exit(2) from None  # the same in all processes: said once
    if is_first():
        if apart := read_card(folder).metrics["validation"].get("held_out"):
            typer.echo(f"validated on {apart}", err=True)
        typer.echo(f"model: {folder}")


@app.command()
def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="A data set's card (YAML), one in the package, or a folder of labels."),
    ],
    model: ModelName = None,
    split: Annotated[str, typer.Option(help="Which of the card's splits; of a folder of labels: all.")] = "test",
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file for the metrics.")] = Path("metrics.json"),
    protocol: Annotated[
        str, typer.Option(help="Rules of the main numbers; those of the others are reported too.")
    ] = "standard",
    types: Annotated[
        list[str] | None,
        typer.Option("--map", help="THEIRS=OURS: a type of the data set is one of the model's; THEIRS= for unknown."),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel of the images, instead of what they or their card say.")
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for plots; none are drawn without.")] = None,
    device: Device = "auto",
    precision: PrecisionName = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on labelled images, at the threshold chosen on its validation data."""
    from rich.console import Console

    from celldetr.api import load_model
    from celldetr.evaluation.plots import save_plots
    from celldetr.evaluation.report import write_metrics
    from celldetr.evaluation.show import show_report
    from celldetr.files import output_errors
    from celldetr.judge import judge

    checks.free(out, overwrite)
    loaded = load_model(model, device, precision=checks.precision(precision))
    with progress_bar(quiet) as bar:
        verdict = judge(
            loaded,
            dataset,
            split,
            protocol=protocol,
            mapping=checks.pairs(types),
            mpp=mpp,
            progress=image_listener(bar, f"{dataset}, {split}"),
        )
    write_metrics(verdict.report, out, others=verdict.others, context=verdict.context)
    if plots:
        with output_errors(plots):
            plots.mkdir(parents=True, exist_ok=True)
        save_plots(verdict.report, plots)
    Console().print(show_report(verdict.report, verdict.others))
    typer.echo(f"metrics: {out}")


@app.command()
def models() -> None:
    """List the models that can be used by name, with licence and metrics."""
    from rich.console import Console

    from celldetr.model.hub import cards
    from celldetr.view.models import models_table

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
