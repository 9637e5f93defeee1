"""``celldetr evaluate``, ``threshold`` and ``rotations``: a model scored on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.messages import note
from celldetr.cli.options import DATASET_HELP, Dataset, Inference, Overwrite, Quiet, check_file
from celldetr.cli.progress import Progress
from celldetr.config import EvaluateOptions, InferenceOptions, RotationsOptions, ThresholdOptions


@with_settings
def evaluate(
    *,
    dataset: Dataset,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSON file for the metrics.")] = Path(
        "metrics.json"
    ),
    options: Annotated[EvaluateOptions, Fields("split", "protocol", "mapping=--map", "join", "mpp")],
    inference: Inference,
    plots: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for plots (precision-recall, confusion, scores, reliability) and confusion.csv; none without.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on labelled images.

    At the threshold chosen on its validation data unless another is given. Precision, recall and F1 of detection and of
    each type under every protocol, with 95 % intervals; average precision; AP at box IoU .5 and IoU of pairs where
    boxes were annotated; PQ, AJI and Dice where the labels have masks; calibration of scores and types; a table by
    tissue where the data tell it. What is counted, and every key of the JSON: docs/concepts/evaluation.md.
    """
    from rich.console import Console

    from celldetr.evaluation.confusion import write_confusion
    from celldetr.evaluation.evaluate import evaluate_model
    from celldetr.evaluation.format import show_report
    from celldetr.evaluation.plots import save_plots
    from celldetr.evaluation.report import write_metrics
    from celldetr.io.files import output_errors
    from celldetr.model.inference import TilePredictor

    check_file(out, overwrite)
    model = TilePredictor.load(inference)
    with Progress("evaluate", quiet) as progress:
        counter = progress.counter(f"{dataset}, {options.split}" if options.split else dataset, "images")
        verdict = evaluate_model(model, dataset, options, progress=counter)
    write_metrics(verdict.report, out, others=verdict.others, context=verdict.context)
    if plots:
        with output_errors(plots):
            plots.mkdir(parents=True, exist_ok=True)
        save_plots(verdict.report, plots)
        write_confusion(verdict.report, plots / "confusion.csv")
    Console().print(show_report(verdict.report, verdict.others))
    if also := str(verdict.also_in_training):
        note(f"the model was trained on {also}: these numbers are memory, as far as these go")
    for name in verdict.context.get("types_without_counterpart", ()):
        note(f"no type of the model is {name!r}: its cells are of unknown type here")
    typer.echo(f"metrics: {out}")


@with_settings
def threshold(
    *,
    datasets: Annotated[
        list[str],
        typer.Argument(metavar="DATASET", help=f"{DATASET_HELP} DATASET:SPLIT names its split; several count alike."),
    ],
    options: Annotated[ThresholdOptions, Fields("split", "protocols=--protocol", "mpp")],
    inference: Annotated[InferenceOptions, Fields("model=--model,-m", "device", "precision", "orientations")],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="F1 over the threshold: .png, .svg or .pdf; none without.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Choose the threshold that suits a model on your tissue.

    On images in which every nucleus is labelled, as training does it: the middle of the broad top of detection F1, the
    mean under two rules of pairing, or under those of --protocol. Of several data sets, or tissues in one, each counts
    alike; the table says what suits each, what the chosen threshold reaches there, and how far scores are from
    probabilities. Types are not looked at. Pass what is printed as --threshold of predict and evaluate; images that it
    was chosen on say nothing about how good the model is.
    """
    from celldetr.evaluation.evaluate import choose_threshold
    from celldetr.evaluation.format import show_threshold
    from celldetr.evaluation.plots import threshold_figure
    from celldetr.io.figures import check_ending, save_figure
    from celldetr.model.inference import TilePredictor

    if plot is not None:
        check_ending(plot)
        check_file(plot, overwrite, "threshold.png")
    model = TilePredictor.load(inference)
    with Progress("threshold", quiet) as progress:
        counter = progress.counter(", ".join(datasets), "images")
        choice, sets = choose_threshold(model, datasets, options, progress=counter)
    if plot is not None:
        save_figure(threshold_figure(choice), plot)
    for line in show_threshold(choice, model.threshold, sets):
        typer.echo(line)


@with_settings
def rotations(
    *,
    metrics: Annotated[
        list[Path], typer.Argument(metavar="METRICS", help="What `celldetr evaluate` wrote for each test fold.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSON file for the result.")] = Path(
        "rotations.json"
    ),
    options: Annotated[RotationsOptions, Fields("protocol")],
    overwrite: Overwrite = False,
) -> None:
    """Sum up a cross-validation: each fold, mean and spread.

    PanNuke's three rotations, say; by tissue too.
    """
    from rich.console import Console

    from celldetr.evaluation.format import show_rotations
    from celldetr.evaluation.rotations import rotations as sum_up

    check_file(out, overwrite)
    result = sum_up(metrics, options.protocol)
    result.write(out)
    Console().print(show_rotations(result))
    typer.echo(f"rotations: {out}")
