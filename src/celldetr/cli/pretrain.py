"""``celldetr pretrain``: a model pretrained without types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Assignments, SettingsFile, has_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.options import Device, Devices, Overwrite, Quiet, RecipeChanges, Resume, RunFolder
from celldetr.cli.train import run_recipe
from celldetr.config import Recipe
from celldetr.io.safe_io import read_yaml


@resumable()
@has_settings(lambda: (Recipe,))
def pretrain(
    *,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe: pretrain-small, or a YAML file.")],
    out: RunFolder,
    settings: RecipeChanges = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="SET", help="A patch set (`celldetr data sample`) instead of the recipe's data."),
    ] = None,
    assignments: Assignments = None,
    config: SettingsFile = None,
    device: Device = "auto",
    devices: Devices = 1,
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Pretrain a model without types.

    Two views of a cell are to look alike, those of two cells not. Images with boxes are enough: a patch set, or any
    data set, whose types are not learnt. OUT gets what `train` gives, and similarity.png, embedding.png and
    embedding.json: see docs/reports/pretraining.md. The model finds and embeds cells; for types, train a recipe with
    `init: OUT`.
    """
    from celldetr.recipes import load_recipe
    from celldetr.recipes.own_data import patch_sources

    own = None if data is None else patch_sources(data)
    changes = ["training.objective=contrastive", *(settings or ()), *(assignments or ())]
    chosen = load_recipe(recipe, changes, own, read_yaml(config) if config else None)
    run_recipe(chosen, out, device, devices, overwrite=overwrite, resume=resume, quiet=quiet)
