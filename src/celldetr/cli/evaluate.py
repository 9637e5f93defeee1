"""Commands that measure models on labelled cells; as in ``cli``: parse, call, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli import checks
from celldetr.cli.options import (
    Dataset,
    Device,
    ImageMpp,
    ModelName,
    Orientations,
    Overwrite,
    PrecisionName,
    Quiet,
    Resume,
    resumable,
)
from celldetr.cli.progress import image_listener, progress_bar


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
    with progress_bar(quiet) as bar:
        verdict = evaluate_model(
            loaded,
            dataset,
            split,
            protocol=protocol,
            mapping=checks.pairs(types),
            renamed=read_type_map(renamed) if renamed else None,
            mpp=mpp,
            progress=image_listener(bar, f"{dataset}, {split}"),
        )
    write_metrics(verdict.report, out, others=verdict.others, context=verdict.context)
    if plots:
        with output_errors(plots):
            plots.mkdir(parents=True, exist_ok=True)
        save_plots(verdict.report, plots)
        write_confusion(verdict.report, plots / "confusion.csv")
    Console().print(show_report(verdict.report, verdict.others))
    for name in verdict.context.get("types_without_counterpart", ()):
        typer.echo(f"note: no type of the model is {name!r}: its cells are of unknown type here", err=True)
    typer.echo(f"metrics: {out}")


def threshold(
    dataset: Dataset,
    model: ModelName = None,
    split: Annotated[str, typer.Option(help="Which of the card's splits; of a folder of labels: all.")] = "val",
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="Rules of pairing, see evaluate; of several, the mean of F1 counts.",
            show_default="within-radius and standard",
        ),
    ] = None,
    mpp: ImageMpp = None,
    plot: Annotated[Path | None, typer.Option(help="F1 over the threshold: .png, .svg or .pdf; none without.")] = None,
    device: Device = "auto",
    precision: PrecisionName = "auto",
    orientations: Orientations = 1,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Choose the threshold that suits a model on your tissue, on images in which every nucleus is labelled.

    As training does it: the middle of the broad top of detection F1, the mean under two rules of pairing, or under
    those of --protocol. Types are not looked at. Pass what is printed as --threshold of predict and evaluate; images
    that it was chosen on say nothing about how good the model is.
    """
    from celldetr.api import load_model
    from celldetr.evaluation.evaluate_model import choose_threshold
    from celldetr.evaluation.format import show_threshold
    from celldetr.evaluation.plots import threshold_figure
    from celldetr.evaluation.threshold import THRESHOLD_PROTOCOLS
    from celldetr.io.figures import check_ending, save_figure

    if plot is not None:
        check_ending(plot)
        checks.free(plot, overwrite, "threshold.png")
    views = checks.orientations(orientations)
    loaded = load_model(model, device, precision=checks.precision(precision), orientations=views)
    with progress_bar(quiet) as bar:
        told = image_listener(bar, f"{dataset}, {split}")
        choice, own = choose_threshold(
            loaded, dataset, split, protocols=tuple(protocol or THRESHOLD_PROTOCOLS), mpp=mpp, progress=told
        )
    if plot is not None:
        save_figure(threshold_figure(choice), plot)
    for line in show_threshold(choice, loaded.threshold, own):
        typer.echo(line)


@resumable()
def probe(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Name (see `celldetr models`) or folder of a model; $seed in it: one for each seed, 0 and up.",
        ),
    ],
    dataset: Dataset,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the probe.")],
    train_split: Annotated[
        str, typer.Option(help="What classifiers learn from; every choice is made on it alone.")
    ] = "train",
    test_split: Annotated[
        str, typer.Option(help="What is reported. Use a validation split until you have decided.")
    ] = "test",
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="A row to compare with; may be repeated. crops (64 px around each nucleus through EfficientNet-Lite0 "
            "of ImageNet), crops-N (the same enlarged to N px), pooled (its features averaged over the box), "
            "handmade (size, shape, colour, texture), random and imagenet (MODEL's network untrained), or a model."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Of folds, draws of labels and random weights.")] = 3,
    train_images: Annotated[
        int | None,
        typer.Option(help="Use so many images of the training split, drawn once.", show_default="all"),
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="Look at cells of this type; repeat it for each. Others are left out."),
    ] = None,
    mpp: ImageMpp = None,
    finetune: Annotated[
        str,
        typer.Option(
            metavar="RECIPE",
            help="Also train all weights of each network on, by this recipe (finetune-all, say), with 10 and 100 % of "
            "the types: hours, not minutes.",
            show_default="not done",
        ),
    ] = "",
    device: Device = "auto",
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Measure how much frozen cell embeddings know of types, at true boxes, beside what one would use instead.

    Of each row: macro F1 of kNN and of a linear probe, with 1, 10 and 100 % of the labels; whether a cell's neighbours
    in other images are of its type; whether neighbours are from its own image (a leak); milliseconds a cell. OUT gets
    report.md, report.json, plots and a sheet of cells with their neighbours. Rows that are done are kept with
    --resume, so that more can be added later. What is measured and how: docs/probe.md.
    """
    from rich.console import Console

    from celldetr.cli.progress import row_listener, training_listener
    from celldetr.probe.report import show_table
    from celldetr.probe.run import probe as run

    with progress_bar(quiet) as bar:
        numbers, context = run(
            model,
            dataset,
            out,
            train_split=train_split,
            test_split=test_split,
            against=tuple(against or ()),
            seeds=seeds,
            train_images=train_images,
            types=tuple(types or ()),
            mpp=mpp,
            finetune=finetune,
            device=device,
            resume=resume,
            overwrite=overwrite,
            progress=row_listener(bar, f"{dataset}, {test_split}"),
            listen=lambda name: training_listener(bar, name),
        )
    Console().print(show_table(numbers, context))
    typer.echo(f"report: {out / 'report.md'}")


def rotations(
    metrics: Annotated[
        list[Path], typer.Argument(metavar="METRICS", help="What `celldetr evaluate` wrote for each test fold.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file for the result.")] = Path("rotations.json"),
    protocol: Annotated[str, typer.Option(help="Which of the protocols in the files.")] = "standard",
    overwrite: Overwrite = False,
) -> None:
    """Sum up a cross-validation (PanNuke's three rotations): each fold, mean and spread, by tissue too."""
    from rich.console import Console

    from celldetr.evaluation.format import show_rotations
    from celldetr.evaluation.rotations import rotations as sum_up

    checks.free(out, overwrite)
    result = sum_up(metrics, protocol)
    result.write(out)
    Console().print(show_rotations(result))
    typer.echo(f"rotations: {out}")
