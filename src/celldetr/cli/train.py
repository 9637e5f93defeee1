"""``celldetr train``: a model trained by a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celldetr.cli import checks
from celldetr.cli.interrupt import resumable
from celldetr.cli.options import Device, Devices, Overwrite, Quiet, Resume, RunFolder
from celldetr.cli.progress import Progress, training_listener
from celldetr.errors import InputError, OneProcessError

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
    run_recipe(chosen, out, device, devices, overwrite=overwrite, resume=resume, quiet=quiet)


def run_recipe(
    chosen: Recipe, out: Path, device: str, devices: int, *, overwrite: bool, resume: bool, quiet: bool
) -> None:
    """Train, whatever the objective, and say where the model is."""
    if devices > 1 or "LOCAL_RANK" in os.environ:
        # Before torch is imported: its data parallelism warns of parameters without a gradient in batches without one.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from celldetr.model.checkpoint import read_card
    from celldetr.training.loop import train as run
    from celldetr.training.processes import is_first

    try:
        with Progress(quiet or not is_first()) as progress:
            folder = run(
                chosen,
                out,
                resume=resume,
                overwrite=overwrite,
                device=device,
                devices=devices,
                listener=training_listener(progress, chosen.name),
            )
    except InputError as error:
        if is_first() or isinstance(error, OneProcessError):
            raise
        raise typer.Exit(2) from None  # the same in all processes: said once
    if is_first():
        if apart := read_card(folder).metrics["validation"].get("held_out"):
            typer.echo(f"validated on {apart}", err=True)
        typer.echo(f"model: {folder}")
