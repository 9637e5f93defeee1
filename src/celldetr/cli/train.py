"""``celldetr train`` and ``pretrain``: a model trained by a recipe, with types or without."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from celldetr.cli.from_config import Assignments, SettingsFile, has_settings, read_pairs
from celldetr.cli.interrupt import resumable
from celldetr.cli.options import Device, Devices, Overwrite, Quiet, RecipeChanges, Resume, RunFolder
from celldetr.cli.progress import Progress, training_listener
from celldetr.config import Recipe, parse
from celldetr.errors import InputError, OneProcessError
from celldetr.io.safe_io import read_yaml


def familiarity(
    *,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a checkpoint, or of a training run.")],
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Whose training data are read; default: the recipe in the model's card."),
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Put into a model what its training nuclei look like to it.

    With that, `predict` says of each cell how familiar it is, and warns of tissue that is foreign to the model. `train`
    does it at its end; this is for models that were trained before, or whose training did not come to its end. The
    training images are read and the model is run on some of them; its weights stay the same.
    """
    from celldetr.model.checkpoint import read_card
    from celldetr.model.device import pick_device
    from celldetr.model.hub import find_model
    from celldetr.recipes import load_recipe
    from celldetr.training.familiarity import add_familiarity, too_few, training_images

    folder = find_model(model)
    card = read_card(folder)
    trained = parse(Recipe, card.recipe, f"{folder}: its recipe") if recipe is None else load_recipe(recipe)
    with Progress("familiarity", quiet) as progress:
        counter = progress.counter("familiarity", "images")
        if not add_familiarity(folder, *training_images(trained), trained, pick_device(device), counter):
            raise too_few(folder)
    typer.echo(f"model: {folder}")


def training_run(prepare: Callable[..., tuple[dict[str, Any] | None, list[str]]]) -> Callable[..., None]:
    """A command with the options of every training run and those of ``prepare``.

    Args:
        prepare: makes of its own options, all but ``recipe``, data instead of the recipe's (None: the recipe's) and
            changes to the recipe.
    """

    def run(
        *,
        recipe: str,
        out: RunFolder,
        settings: RecipeChanges = None,
        assignments: Assignments = None,
        config: SettingsFile = None,
        device: Device = "auto",
        devices: Devices = 1,
        overwrite: Overwrite = False,
        resume: Resume = False,
        quiet: Quiet = False,
        **own: Any,
    ) -> None:
        from celldetr.recipes import load_recipe

        data, changes = prepare(recipe=recipe, **own)
        changes += [*(settings or ()), *(assignments or ())]
        chosen = load_recipe(recipe, changes, data, read_yaml(config) if config else None)
        if devices > 1 or "LOCAL_RANK" in os.environ:
            # Before torch is imported: its data parallelism warns of parameters without a gradient in some batches.
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        from celldetr.model.checkpoint import read_card
        from celldetr.training.loop import train as train_recipe
        from celldetr.training.processes import is_first

        try:
            with Progress("train", quiet or not is_first()) as progress:
                folder = train_recipe(
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
            if apart := read_card(folder).metrics.get("validation", {}).get("held_out"):
                typer.echo(f"validated on {apart}", err=True)
            typer.echo(f"model: {folder}")

    shared = inspect.signature(run, eval_str=True).parameters
    own_parameters = inspect.signature(prepare, eval_str=True).parameters
    parameters = [*own_parameters.values(), *(shared[name] for name in shared if name not in ("recipe", "own"))]
    functools.update_wrapper(run, prepare)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return resumable()(has_settings(lambda: (Recipe,))(run))


@training_run
def train(
    *,
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's name (finetune, small-20x, ...) or YAML file.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Own labels instead of the recipe's data: QuPath GeoJSON, CSV or COCO; a folder or a file.",
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", help="With --data: micrometres per pixel of its images, if they do not say it."),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="THEIRS=OURS",
            help="With --data: one of its classes is a type of the model, THEIRS= for unknown; several may be the same "
            "type; repeat for more, or a YAML file. Classes that are not named are types themselves.",
        ),
    ] = None,
) -> tuple[dict[str, Any] | None, list[str]]:
    """Train a model.

    OUT gets model/, log.jsonl, tensorboard/, curves.png and the state to resume from.
    """
    from celldetr.recipes.own_data import own_sources

    if data is None and (mpp is not None or mapping):
        raise InputError("`mpp` and `mapping` say something of `data`, which is missing")
    pairs = read_pairs(mapping, "--map THEIRS=OURS") if mapping else None
    return None if data is None else own_sources(data, mpp, pairs), []


@training_run
def pretrain(
    *,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe: pretrain-small, or a YAML file.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="SET", help="A patch set (`celldetr data sample`) instead of the recipe's data."),
    ] = None,
) -> tuple[dict[str, Any] | None, list[str]]:
    """Pretrain a model without types.

    Two views of a cell are to look alike, those of two cells not. Images with boxes are enough: a patch set, or any
    data set, whose types are not learnt. OUT gets what `train` gives, and similarity.png, embedding.png and
    embedding.json: see docs/reports/pretraining.md. The model finds and embeds cells; for types, train a recipe with
    `init: OUT`.
    """
    from celldetr.recipes.own_data import patch_sources

    return None if data is None else patch_sources(data), ["training.objective=contrastive"]
