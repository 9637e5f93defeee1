"""``celldetr probe``: what frozen cell embeddings know of types."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.messages import note
from celldetr.cli.options import Dataset, Device, Overwrite, Quiet, Resume
from celldetr.cli.progress import Progress, training_listener
from celldetr.config import ProbeOptions
from celldetr.errors import InputError


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
        Fields(
            *("train_split", "test_split", "against", "encoder", "weights", "seeds"),
            *("train_images", "types=--type", "mpp", "finetune"),
        ),
    ],
    where: Annotated[
        bool,
        typer.Option(
            "--where",
            help="Measure instead how much embeddings know of where their cell lies, on the images of the test split.",
        ),
    ] = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Measure how much frozen cell embeddings know of types.

    At true boxes, beside what one would use instead. Of each row: macro F1 of kNN and of a linear probe, with 1, 10 and
    100 % of the labels; whether a cell's neighbours in other images are of its type; whether neighbours are from its
    own image (a leak); milliseconds a cell. OUT gets report.md, report.json, plots and a sheet of cells with their
    neighbours. Rows that are done are kept with --resume, so that more can be added later. With --where, OUT gets
    where.json: R2 of a cell's place read from its embedding, and what moves it. How it is done: docs/reports/probe.md.
    """
    from rich.console import Console

    from celldetr.probe.report import show_table
    from celldetr.probe.run import probe as run

    if where:
        measure_where(model, dataset, out, options, device, overwrite, quiet)
        return
    with Progress("probe", quiet) as progress:
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
    for name, warning in context.warnings().items():
        note(f"{name} {warning}")
    typer.echo(f"report: {out / 'report.md'}")


def measure_where(
    model: str, dataset: str, out: Path, options: ProbeOptions, device: str, overwrite: bool, quiet: bool
) -> None:
    """Measure what embeddings of models know of the place, print a table, and write ``where.json``."""
    from rich.console import Console

    from celldetr.api import load_model
    from celldetr.data.autocard import find_card
    from celldetr.data.sources import load_samples, rescale
    from celldetr.io.files import write_json
    from celldetr.probe.location import location_table, measure_location

    path = out / "where.json"
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; choose another folder or pass `overwrite`")
    samples = load_samples(find_card(dataset, options.mpp), options.test_split)
    reports = {}
    with Progress("probe", quiet) as progress:
        for name in (model, *options.against):
            loaded = load_model(name, device, precision="32")
            images = [rescale(sample, loaded.mpp) for sample in samples]
            reports[name] = measure_location(loaded, images, progress=progress.counter(f"{name}: places", "passes"))
    out.mkdir(parents=True, exist_ok=True)
    rows = {name: asdict(report) for name, report in reports.items()}
    write_json(path, {"dataset": dataset, "split": options.test_split, "models": rows})
    Console().print(location_table(reports))
    typer.echo(f"report: {path}")
