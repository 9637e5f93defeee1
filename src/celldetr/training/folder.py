"""Output folder of a training run: its files, and how the first of several processes holds it for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from lightning_fabric import Fabric

from celldetr.config import Recipe
from celldetr.errors import InputError
from celldetr.io.files import replacing
from celldetr.io.run_folder import Layout, RunFolder
from celldetr.model.checkpoint import CARD_FILE, WEIGHTS_FILE
from celldetr.model.hub import find_model
from celldetr.training.figures import EMBEDDING_FACTS, EMBEDDING_FILE, SIMILARITY_FILE
from celldetr.training.logs import CURVES_FILE, LOG_FILE, TENSORBOARD_FOLDER
from celldetr.training.processes import agree
from celldetr.training.state import STATE_FILE

RECIPE_FILE, MODEL_FOLDER = "recipe.yaml", "model"
LAYOUT = Layout(
    "run.json",
    outputs=(
        *(RECIPE_FILE, STATE_FILE, LOG_FILE, CURVES_FILE, SIMILARITY_FILE, EMBEDDING_FILE, EMBEDDING_FACTS),
        *(f"{TENSORBOARD_FOLDER}/events.*", f"{TENSORBOARD_FOLDER}/"),
        *(f"{MODEL_FOLDER}/{name}" for name in (CARD_FILE, WEIGHTS_FILE)),
        f"{MODEL_FOLDER}/",
    ),
    results=(MODEL_FOLDER,),
    noun="training run",
)


def check_folder(folder: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """Check whether a run can have a folder, without touching it.

    Raises:
        InputError: as ``RunFolder.check``; the model to start from is in the folder that would be overwritten.
    """
    _run_folder(folder, recipe).check(resume=resume, overwrite=overwrite)
    if overwrite and recipe.init and folder.resolve() in (start := find_model(recipe.init).resolve(), *start.parents):
        raise InputError(f"{folder}: holds the model to start from, init={recipe.init!r}; name another folder")


@contextmanager
def open_folder(fabric: Fabric, folder: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> Iterator[RunFolder]:
    """Open the folder of a run in the first process, which alone writes, and put the recipe there.

    Raises:
        InputError: in all processes: as ``RunFolder.open``.
    """
    run = _run_folder(folder, recipe)
    with ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(run.open(resume=resume, overwrite=overwrite))
            run.begin()
            with replacing(folder / RECIPE_FILE) as unfinished:
                unfinished.write_text(yaml.safe_dump(run.request["recipe"], sort_keys=False), encoding="utf-8")

        agree(fabric, begin)
        yield run


def _run_folder(folder: Path, recipe: Recipe) -> RunFolder:
    return RunFolder(folder, LAYOUT, {"recipe": recipe.model_dump(mode="json")})
