"""``celldetr evaluate``: a model scored on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli import checks
from celldetr.cli.messages import note
from celldetr.cli.options import Dataset, Device, ImageMpp, ModelName, Orientations, Overwrite, PrecisionName, Quiet
from celldetr.cli.progress import Progress


def evaluate(
    dataset: Dataset,
    model: ModelName = None,
    split: Annotated[str, typer.Option(help="Which of the card's splits; of a folder of labels: all.")] = "test",
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file for the metrics.")] = Path("metrics.json"),
    protocol: Annotated[
        str,
        typer.Option(
            help="Rules of the main numbers: standard, within-radius, points-compat, cellvit-compat or "
            "celldetr-compat. Those of the others are reported too."
        ),
    ] = "standard",
    types: Annotated[
        list[str] | None,
        typer.Option("--map", help="THEIRS=OURS: a type of the data set is one of the model's; THEIRS= for unknown."),
    ] = None,
    renamed: Annotated[
        str | None,
        typer.Option(
            "--types",
            metavar="MAP",
            help="Judge by the types of the data set: OURS:THEIRS,OURS:THEIRS, several to one, OURS: to leave out; or "
            "a YAML file of name: parent.",
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least score of a cell that counts, 0 to 1.", show_default="the model's own")
    ] = None,
    mpp: ImageMpp = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            help="Folder for plots (precision-recall, confusion, scores, reliability) and confusion.csv; none without."
        ),
    ] = None,
    device: Device = "auto",
    precision: PrecisionName = "auto",
    orientations: Orientations = 1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on labelled images, at the threshold chosen on its validation data unless another is given.

    Precision, recall and F1 of detection and of each type under every protocol, with 95 % intervals; average precision;
    AP at box IoU .5 and IoU of pairs where boxes were annotated; calibration of scores and types; a table by tissue
    where the data tell it. What is counted, and every key of the JSON: docs/evaluation.md.
    """
    from rich.console import Console

    from celldetr.api import load_model
    from celldetr.evaluation.confusion import write_confusion
    from celldetr.evaluation.evaluate_model import evaluate_model
    from celldetr.evaluation.format import show_report
    from celldetr.evaluation.plots import save_plots
    from celldetr.evaluation.report import write_metrics
    from celldetr.evaluation.type_map import read_type_map
    from celldetr.io.files import output_errors

    checks.free(out, overwrite)
    views = checks.orientations(orientations)
    loaded = load_model(model, device, precision=checks.precision(precision), threshold=threshold, orientations=views)
    with Progress(quiet) as progress:
        verdict = evaluate_model(
            loaded,
            dataset,
            split,
            protocol=protocol,
            mapping=checks.pairs(types),
            renamed=read_type_map(renamed) if renamed else None,
            mpp=mpp,
            progress=progress.counter(f"{dataset}, {split}", "images"),
        )
    write_metrics(verdict.report, out, others=verdict.others, context=verdict.context)
    if plots:
        with output_errors(plots):
            plots.mkdir(parents=True, exist_ok=True)
        save_plots(verdict.report, plots)
        write_confusion(verdict.report, plots / "confusion.csv")
    Console().print(show_report(verdict.report, verdict.others))
    for name in verdict.context.get("types_without_counterpart", ()):
        note(f"no type of the model is {name!r}: its cells are of unknown type here")
    typer.echo(f"metrics: {out}")
