"""Commands that make models, measure them and look into them; as in ``cli``: parse, call, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celldetr import cli_checks as checks
from celldetr.cli_options import (
    Device,
    Devices,
    ModelName,
    Orientations,
    Overwrite,
    PrecisionName,
    Quiet,
    Resume,
    RunFolder,
    resumable,
)
from celldetr.errors import InputError
from celldetr.progress import image_listener, progress_bar, training_listener

if TYPE_CHECKING:
    from celldetr.config import Recipe


@resumable()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's name (finetune, small-20x, ...) or YAML file.")
    ],
    out: RunFolder,
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
    devices: Devices = 1,
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a model: OUT gets model/, log.jsonl, tensorboard/, curves.png and the state to resume from."""
    from celldetr.recipes import load_recipe

    chosen = load_recipe(recipe, settings, checks.own_data(data, mpp, types))
    _run_recipe(chosen, out, device, devices, overwrite=overwrite, resume=resume, quiet=quiet)


@resumable()
def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe: pretrain-small, or a YAML file.")],
    out: RunFolder,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Changes to it, e.g. training.steps=2000 train='[{card: SET, split: train}]'",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="SET", help="A patch set (`celldetr data sample`) instead of the recipe's data."),
    ] = None,
    device: Device = "auto",
    devices: Devices = 1,
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Pretrain a model without types: two views of a cell are to look alike, those of two cells not.

    Images with boxes are enough: a patch set, or any data set, whose types are not learnt. OUT gets what `train` gives,
    and similarity.png, embedding.png and embedding.json: see docs/pretraining.md. The model finds and embeds cells; for
    types, train a recipe with `init: OUT`.
    """
    from celldetr.recipes import load_recipe
    from celldetr.recipes.own_data import patch_sources

    own = None if data is None else patch_sources(data)
    chosen = load_recipe(recipe, ["training.objective=contrastive", *(settings or [])], own)
    _run_recipe(chosen, out, device, devices, overwrite=overwrite, resume=resume, quiet=quiet)


def _run_recipe(
    chosen: Recipe, out: Path, device: str, devices: int, *, overwrite: bool, resume: bool, quiet: bool
) -> None:
    """Train, whatever the objective, and say where the model is."""
    from celldetr.model.checkpoint import read_card
    from celldetr.training.loop import train as run
    from celldetr.training.processes import is_first

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


def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="A data set's card (YAML), one in the package, or a folder of labels."),
    ],
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
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel of the images, instead of what they or their card say.")
    ] = None,
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
    from celldetr.evaluation.plots import save_plots
    from celldetr.evaluation.report import write_metrics
    from celldetr.evaluation.show import show_report
    from celldetr.evaluation.type_map import read_type_map
    from celldetr.files import output_errors
    from celldetr.judge import judge

    checks.free(out, overwrite)
    views = checks.orientations(orientations)
    loaded = load_model(model, device, precision=checks.precision(precision), threshold=threshold, orientations=views)
    with progress_bar(quiet) as bar:
        verdict = judge(
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


@resumable()
def ablate(
    study: Annotated[
        str,
        typer.Argument(metavar="STUDY", help="A study's name (whole-consep, decoder-consep, ...) or YAML file."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of studies; OUT/STUDY gets trials and report.md.")],
    only: Annotated[list[str] | None, typer.Option(help="Run this variant only; may be repeated.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N", help="Run these seeds of the study only, e.g. 0,1.", show_default="all")
    ] = None,
    finished: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Another folder of studies, e.g. of kept results: what FOLDER/STUDY/VARIANT/seedN/result.json has, "
            "is reported and not run again.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Trials side by side, each with its share of the processors.")] = 1,
    report: Annotated[bool, typer.Option("--report", help="Run nothing; report on what is finished.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train the variants of a study over several seeds and compare them, with intervals.

    What is finished is kept: the same command goes on with a study that was interrupted, and ends with its report.
    """
    from celldetr.ablation.report import write_report
    from celldetr.ablation.run import run_tasks, tasks_of
    from celldetr.ablation.study import load_study

    chosen = load_study(study)
    if not report:
        tasks = tasks_of(chosen, out, only or (), device, checks.seeds(seeds), finished)
        with progress_bar(quiet) as bar:
            listener = training_listener(bar, chosen.name)
            run_tasks(tasks, jobs, lambda name: bar.console.print(f"finished: {name}"), listener)
    typer.echo(write_report(chosen, out, finished))


@resumable()
def probe(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name (see `celldetr models`) or folder of a model.")],
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="A data set's card (YAML), one in the package, or a folder of labels."),
    ],
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
            "of ImageNet), crops-N (the same enlarged to N px), handmade (size, shape, colour, texture), random and "
            "imagenet (MODEL's network untrained), or another model."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Of folds, draws of labels and random weights.")] = 3,
    train_images: Annotated[
        int | None, typer.Option(help="Use so many images of the training split, drawn once.", show_default="all")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel of the images, instead of what they or their card say.")
    ] = None,
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

    from celldetr.probe.report import show_table
    from celldetr.probe.run import probe as run
    from celldetr.progress import row_listener

    with progress_bar(quiet) as bar:
        rows, context = run(
            model,
            dataset,
            out,
            train_split=train_split,
            test_split=test_split,
            against=tuple(against or ()),
            seeds=seeds,
            train_images=train_images,
            mpp=mpp,
            device=device,
            resume=resume,
            overwrite=overwrite,
            progress=row_listener(bar, f"{dataset}, {test_split}"),
        )
    Console().print(show_table(rows, context))
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

    from celldetr.evaluation.rotations import rotations as sum_up
    from celldetr.evaluation.show import show_rotations

    checks.free(out, overwrite)
    result = sum_up(metrics, protocol)
    result.write(out)
    Console().print(show_rotations(result))
    typer.echo(f"rotations: {out}")


def explain(
    slide: Annotated[Path, typer.Argument(metavar="SLIDE", help="A slide or an image, as for predict.")],
    cells: Annotated[
        Path | None,
        typer.Option(help="OUT/SLIDE of a finished run, or its cells.parquet.", show_default="found by the model"),
    ] = None,
    cell: Annotated[
        list[int] | None,
        typer.Option(help="cell_id of one; repeat for more.", show_default="of each type the surest, the median"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Name or folder; repeat for a column each.", show_default="small-20x"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Figure: .png, .svg or .pdf.")] = Path("explain.png"),
    region: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="X Y WIDTH HEIGHT: without --cells, where cells are looked for, px at full resolution."),
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel, instead of what the file says.")] = None,
    tile: Annotated[
        int, typer.Option(min=64, max=4096, help="Side of what a model sees around a cell, px at its resolution.")
    ] = 768,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw where models look to type a cell: sampling points and attention weights of the representation decoder.

    One row a cell, one column a model. Every model is asked about the same boxes: those of --cells, or those that the
    first model finds in --region. A dot's area is its attention weight, its colour the feature level that it reads.
    """
    from celldetr.explain import explain_slide

    checks.free(out, overwrite, "explain.png")
    with progress_bar(quiet) as bar:
        listener = image_listener(bar, "cells")
        told = explain_slide(slide, out, model or [None], cells, cell or (), region, mpp, tile, device, listener)
    for line in told:
        typer.echo(line)
    typer.echo(f"figure: {out}")
