"""``celldetr probe``: what frozen cell embeddings know of types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.interrupt import resumable
from celldetr.cli.options import Dataset, Device, ImageMpp, Overwrite, Quiet, Resume
from celldetr.cli.progress import Progress, training_listener


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

    from celldetr.probe.report import show_table
    from celldetr.probe.run import probe as run

    with Progress(quiet) as progress:
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
            progress=progress.counter(f"{dataset}, {test_split}", "images"),
            listen=lambda name: training_listener(progress, name),
        )
    Console().print(show_table(numbers, context))
    typer.echo(f"report: {out / 'report.md'}")
