"""``celldetr probe``: what frozen cell embeddings know of types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.options import Dataset, Device, Overwrite, Quiet, Resume
from celldetr.cli.progress import Progress, training_listener
from celldetr.config import ProbeOptions


@resumable()
@with_settings
def probe(
    *,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Name (see `celldetr models`) or folder of a model; $seed in it: one for each seed, 0 and up.",
        ),
    ],
    dataset: Dataset,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the probe.")],
    options: Annotated[
        ProbeOptions,
        Fields("train_split", "test_split", "against", "seeds", "train_images", "types=--type", "mpp", "finetune"),
    ],
    device: Device = "auto",
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Measure how much frozen cell embeddings know of types.

    At true boxes, beside what one would use instead. Of each row: macro F1 of kNN and of a linear probe, with 1, 10 and
    100 % of the labels; whether a cell's neighbours in other images are of its type; whether neighbours are from its
    own image (a leak); milliseconds a cell. OUT gets report.md, report.json, plots and a sheet of cells with their
    neighbours. Rows that are done are kept with --resume, so that more can be added later. What is measured and how:
    docs/probe.md.
    """
    from rich.console import Console

    from celldetr.probe.report import show_table
    from celldetr.probe.run import probe as run

    with Progress(quiet) as progress:
        numbers, context = run(
            model,
            dataset,
            out,
            options,
            device=device,
            resume=resume,
            overwrite=overwrite,
            progress=progress.counter(f"{dataset}, {options.test_split}", "images"),
            listen=lambda name: training_listener(progress, name),
        )
    Console().print(show_table(numbers, context))
    typer.echo(f"report: {out / 'report.md'}")
