"""Commands that make models, compare ways to make them and look into them; as in ``cli``: parse, call, report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celldetr.cli import checks
from celldetr.cli.options import (
    Device,
    Devices,
    Overwrite,
    Quiet,
    Resume,
    RunFolder,
    resumable,
)
from celldetr.cli.progress import image_listener, progress_bar, training_listener
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
    if devices > 1 or "LOCAL_RANK" in os.environ:
        # Before torch is imported: its data parallelism warns of parameters without a gradient in batches without one.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
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
    except InputError as error:
        if is_first() or isinstance(error, OneProcessError):
            raise
        raise typer.Exit(2) from None  # the same in all processes: said once
    if is_first():
        if apart := read_card(folder).metrics["validation"].get("held_out"):
            typer.echo(f"validated on {apart}", err=True)
        typer.echo(f"model: {folder}")


@resumable("run it again")
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
    from celldetr.research.ablation.report import write_report
    from celldetr.research.ablation.run import run_tasks, tasks_of
    from celldetr.research.ablation.study import load_study

    chosen = load_study(study)
    if not report:
        tasks = tasks_of(chosen, out, only or (), device, checks.seeds(seeds), finished)
        with progress_bar(quiet) as bar:
            listener = training_listener(bar, chosen.name)
            run_tasks(tasks, jobs, lambda name: bar.console.print(f"finished: {name}"), listener)
    typer.echo(write_report(chosen, out, finished))


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
