"""The command line: parse, call, report; no logic.

A user's mistake is one line on standard error and exit code 2, as are wrong options. Heavy imports happen inside
commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celldetr.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

app = typer.Typer(
    name="celldetr",
    help="Every nucleus of an H&E slide located, typed and embedded.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Start with:  celldetr demo -o demo     Then:  celldetr predict SLIDE -o OUT",
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if needed.")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Name (see `celldetr models`) or folder of a model.", show_default="small-20x"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[str, typer.Option(help="32, bf16, or auto: bf16 on CUDA.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


@app.callback(invoke_without_command=True)
def common(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Every nucleus of an H&E slide located, typed and embedded."""
    if version:
        from celldetr import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def predict(
    slides: Annotated[list[Path], typer.Argument(help="Slides: what OpenSlide reads, TIFF (plain, OME), PNG, JPEG.")],
    out: Out,
    model: ModelName = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel of level 0, instead of what the file says.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", help="Also write geojson (QuPath), anndata or csv; repeat for more."),
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Least score of a cell, instead of the model's own.")] = None,
    region: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="X Y WIDTH HEIGHT in level-0 pixels: only this part."),
    ] = None,
    tile: Annotated[
        int, typer.Option(help="Side of a tile, px at the model's resolution; smaller needs less memory.")
    ] = 512,
    overlap: Annotated[int, typer.Option(help="Px that neighbouring tiles share.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Tiles the network sees at once.")] = 4,
    all_tiles: Annotated[bool, typer.Option("--all-tiles", help="Also read where no tissue was found.")] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Find every cell of slides: OUT/SLIDE/ gets cells.parquet, run.json, overview.png and summary.html."""
    from celldetr.config import parse
    from celldetr.slide.options import PredictOptions

    values = {"tile": tile, "overlap": overlap, "batch_size": batch_size, "mpp": mpp, "region": region}
    options = parse(PredictOptions, values | {"tissue": not all_tiles}, "options")
    _predict(slides, out, model, options, formats or [], threshold, device, precision, overwrite, resume, quiet)


def _predict(
    slides: list[Path],
    out: Path,
    model: str | None,
    options: Any,
    formats: list[str],
    threshold: float | None,
    device: str,
    precision: Any,
    overwrite: bool,
    resume: bool,
    quiet: bool,
) -> None:
    """One slide after another; a slide that fails is told at once and does not stop the others."""
    from celldetr.api import load_model, predict_slide
    from celldetr.export import find_format
    from celldetr.slide.reader import open_slide

    for name in formats:
        find_format(name)
    if len(slides) == 1:
        open_slide(slides[0], options.mpp).close()  # its mistakes are told before seconds are spent on a model
    loaded = load_model(
        model, device, precision=_precision(precision), threshold=threshold, batch_size=options.batch_size
    )
    failed = 0
    for slide in slides:
        try:
            with _bar(quiet) as bar:
                summary = predict_slide(
                    slide,
                    out,
                    model=loaded,
                    options=options,
                    formats=formats,
                    resume=resume,
                    overwrite=overwrite,
                    progress=_slide_listener(bar, slide.name),
                )
        except InputError as error:
            _complain(error)
            failed += 1
            continue
        _tell(summary)
    if failed:
        raise typer.Exit(2)


@app.command()
def demo(out: Out = Path("demo"), overwrite: Overwrite = False, device: Device = "auto", quiet: Quiet = False) -> None:
    """Find every cell of the sample slide that comes with the package, in all formats."""
    from celldetr.sample_slide import sample_slide
    from celldetr.slide.options import PredictOptions

    formats = ["geojson", "anndata", "csv"]
    _predict([sample_slide()], out, None, PredictOptions(), formats, None, device, "auto", overwrite, False, quiet)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="Folder of a finished slide, or its cells.parquet.")],
    format: Annotated[str, typer.Option("--format", "-f", help="geojson (QuPath), anndata (scanpy) or csv.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write.", show_default="beside the table")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="geojson: box or ellipse.")] = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="csv: with the embedding, a column a number.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the cells of a slide for QuPath, scanpy or a spreadsheet."""
    from celldetr.export import export_cells

    options: dict[str, Any] = {"shape": shape} if shape else {}
    if embeddings:
        options["embeddings"] = True
    typer.echo(export_cells(source, format, out, overwrite=overwrite, **options))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (small-20x, paper-r50) or YAML file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Changes to it: training.steps=2000 model.d_model=64 ...")
    ] = None,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(help="Processes, each with a device of its own.")] = 1,
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a model. OUT gets model/, log.jsonl, tensorboard/, curves.png and the state to resume from."""
    from celldetr.recipes import load_recipe
    from celldetr.training.loop import train as run

    chosen = load_recipe(recipe, settings)
    with _bar(quiet) as bar:
        folder = run(
            chosen,
            out,
            resume=resume,
            overwrite=overwrite,
            device=device,
            devices=devices,
            listener=_training_listener(bar, chosen.name),
        )
    typer.echo(f"model: {folder}")


@app.command()
def evaluate(
    dataset: Annotated[str, typer.Argument(help="A data set's name or card (YAML).")],
    model: ModelName = None,
    split: Annotated[str, typer.Option(help="Split of the card.")] = "test",
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file for the metrics.")] = Path("metrics.json"),
    protocol: Annotated[str, typer.Option(help="Protocol of the main numbers; all are reported.")] = "standard",
    types: Annotated[
        list[str] | None, typer.Option("--map", help="theirs=ours: which type of the data set is which of the model.")
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for the plots.")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
) -> None:
    """Score a model on labelled images, at the threshold chosen on its validation data."""
    from rich.console import Console

    from celldetr.api import load_model
    from celldetr.evaluation.plots import save_plots
    from celldetr.evaluation.report import write_metrics
    from celldetr.evaluation.show import show_report
    from celldetr.judge import judge

    loaded = load_model(model, device, precision=_precision(precision))
    with _bar(quiet) as bar:
        task = bar.add_task(f"{dataset}, {split}", total=None, note="")
        verdict = judge(
            loaded,
            dataset,
            split,
            protocol=protocol,
            mapping=_pairs(types),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_metrics(verdict.report, out, others=verdict.others, context=verdict.context)
    if plots:
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


def _precision(name: str) -> Any:
    if name not in ("auto", "32", "bf16"):
        raise InputError(f"precision {name!r}; expected 'auto', '32' or 'bf16'")
    return name


def _pairs(types: list[str] | None) -> dict[str, str] | None:
    if not types:
        return None
    for pair in types:
        if "=" not in pair:
            raise InputError(f"--map {pair!r}: expected theirs=ours, e.g. --map neoplastic=epithelial")
    return dict(pair.split("=", 1) for pair in types)


def _bar(quiet: bool) -> Bar:
    """A progress bar on standard error, so that standard output stays for results."""
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
    return Progress(*columns, console=Console(stderr=True), disable=quiet)


def _slide_listener(bar: Bar, name: str) -> Any:
    import time

    task, start = bar.add_task(name, total=None, note=""), time.monotonic()

    def listen(progress: Any) -> None:
        seconds = max(time.monotonic() - start, 1e-3)
        rate = f"{progress.cells:,} cells  {progress.cells / seconds:,.0f} cells/s  {progress.mm2 / seconds:.3f} mm²/s"
        bar.update(task, completed=progress.tiles, total=progress.tiles_total, note=rate)

    return listen


def _training_listener(bar: Bar, name: str) -> Any:
    task = bar.add_task(name, total=None, note="")

    def listen(progress: Any) -> None:
        note = f"step {progress.step}  loss {progress.loss:.3f}  {progress.images_per_second:.1f} images/s"
        bar.update(task, completed=progress.step, total=progress.steps, note=note)
        if progress.validation:
            shown = "  ".join(f"{k} {v:.3f}" for k, v in progress.validation.items() if v is not None)
            bar.console.print(f"step {progress.step}: {shown}")

    return listen


def _tell(summary: Any) -> None:
    by_type = ", ".join(f"{count:,} {name}" for name, count in summary.counts.items())
    found = f"{summary.cells:,} cells ({by_type}) on {summary.tissue_mm2:.2f} mm² in {summary.seconds:.0f} s"
    typer.echo(f"{summary.directory}: {found}")
    for warning in summary.warnings:
        typer.echo(f"  note: {warning}", err=True)


def _complain(error: Exception) -> None:
    typer.echo(f"error: {' '.join(str(error).split())}", err=True)


def main() -> None:
    """Entry point: a user's mistake becomes one line and exit code 2, an interruption exit code 130."""
    try:
        app()
    except InputError as error:
        _complain(error)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted; add --resume to continue", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
