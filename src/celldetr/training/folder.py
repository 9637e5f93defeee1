"""The folder of a run: made, checked before it is continued, and emptied of a run before it is used anew.

Nothing is deleted that a run did not put there: a folder without a recipe is never overwritten.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from celldetr.config import Recipe, parse
from celldetr.errors import InputError
from celldetr.io.files import output_errors, replacing
from celldetr.io.run_folder import check_modes, differences
from celldetr.io.safe_io import read_yaml
from celldetr.model.hub import find_model
from celldetr.training.figures import EMBEDDING_FACTS, EMBEDDING_FILE, SIMILARITY_FILE
from celldetr.training.logs import CURVES_FILE, LOG_FILE, TENSORBOARD_FOLDER
from celldetr.training.state import STATE_FILE

RECIPE_FILE, MODEL_FOLDER = "recipe.yaml", "model"


def check_folder(folder: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """Say whether a run can have a folder, without touching it.

    Raises:
        InputError: it holds a run and neither ``resume`` nor ``overwrite`` was asked; there is no run to resume, or one
            of another recipe; what would be overwritten is not a run.
    """
    path = folder / RECIPE_FILE
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder for the run")
    check_modes(resume, overwrite)
    if resume:
        if not path.is_file():
            raise InputError(f"{folder}: nothing to resume, there is no {RECIPE_FILE}; start without --resume")
        earlier = parse(Recipe, read_yaml(path), str(path))
        if changed := differences(earlier.model_dump(mode="json"), recipe.model_dump(mode="json")):
            raise InputError(f"{folder}: holds a run of another recipe ({changed[0]}); resume with the same settings")
    elif folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise InputError(f"{folder}: exists; add --resume to continue the run in it, or --overwrite to start anew")
        if not path.is_file():
            raise InputError(f"{folder}: holds other files than a run, which are not overwritten; name another folder")
        if recipe.init and folder.resolve() in (start := find_model(recipe.init).resolve(), *start.parents):
            raise InputError(f"{folder}: holds the model to start from, init={recipe.init!r}; name another folder")


def prepare_folder(folder: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """Make the folder of a run; with ``overwrite``, without what the run before left.

    Raises:
        InputError: as ``check_folder``, or it cannot be written.
    """
    check_folder(folder, recipe, resume=resume, overwrite=overwrite)
    if resume:
        return
    with output_errors(folder):
        for name in (STATE_FILE, LOG_FILE, CURVES_FILE, SIMILARITY_FILE, EMBEDDING_FILE, EMBEDDING_FACTS):
            (folder / name).unlink(missing_ok=True)
        for name in (MODEL_FOLDER, TENSORBOARD_FOLDER):
            shutil.rmtree(folder / name, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / RECIPE_FILE) as unfinished:
        unfinished.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
