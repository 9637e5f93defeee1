"""What a network's weights are worth as a start: all learn on, and its own head says the types of true boxes.

Each row that is a network is trained by one recipe from its own weights, with a share of the types and all boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.api import load_model
from celldetr.config import DataSource, Recipe
from celldetr.data.sources import rescale
from celldetr.errors import InputError
from celldetr.io.files import read_json, write_json
from celldetr.io.run_folder import RunFolder
from celldetr.model.at_boxes import type_boxes
from celldetr.probe.methods import Method
from celldetr.probe.row import FINETUNED, Counts, MethodRow, by_unit
from celldetr.probe.truth import Truth
from celldetr.recipes import load_recipe
from celldetr.training.folder import LAYOUT
from celldetr.training.loop import Listener, train

SHARES = (0.1, 1.0)  # of the training types
HOLD_OUT = 0.2  # of the training images, which choose the step, where the recipe names no share
RUNS, RESULT = "finetuned", "counts.json"
FILES = (*(f"{RUNS}/*/{name}" for name in (RESULT, *LAYOUT.outputs, LAYOUT.record)), f"{RUNS}/*/", f"{RUNS}/")


@dataclass(frozen=True)
class Finetuning:
    """How rows are fine-tuned.

    Attributes:
        recipe: a recipe's name, or a YAML file; what it says of data, types and the model to start from is replaced.
        source: the training split, with all of its types.
        type_names: the K types, those of the data set's that are probed.
        seeds: number of runs of each row and share; also draws the types that are kept.
        device: where networks run.
        listen: name of a run -> listener to its training.
    """

    recipe: str
    source: DataSource
    type_names: tuple[str, ...]
    seeds: int
    device: str = "auto"
    listen: Callable[[str], Listener] | None = None

    def recipe_of(self, method: Method, share: float, seed: int) -> Recipe:
        """The recipe of a run.

        Raises:
            InputError: no such recipe, or it cannot start from the method's weights.
        """
        if method.start is None:
            raise ValueError(f"{method.name} is no network")
        source = self.source.model_copy(update={"label_share": share, "label_seed": seed})
        start = method.start(seed)
        model = start.config.model_dump(mode="json") if start.config else {}
        data: dict[str, Any] = {
            "name": f"probe-{method.file_name}",
            "init": start.init,
            "train": [source.model_dump(mode="json")],
            "validation": [],
            "model": model | {"types": list(self.type_names)},
        }
        recipe = load_recipe(self.recipe, [f"training.seed={seed}"], data)
        if recipe.training.objective != "supervised" or not recipe.training.learns_types:
            raise InputError(f"`finetune={self.recipe}`: teaches no types; name a recipe that does, e.g. finetune-all")
        settings = recipe.training.model_copy(update={"hold_out": recipe.training.hold_out or HOLD_OUT})
        return recipe.model_copy(update={"training": settings})


def check_recipes(how: Finetuning, chosen: Sequence[Method]) -> None:
    """Try the recipes of all runs, before the first hour.

    Raises:
        InputError: as ``Finetuning.recipe_of``.
    """
    for method in chosen:
        for seed in range(how.seeds if method.start else 0):
            how.recipe_of(method, SHARES[0], seed)


def with_finetuning(row: MethodRow, method: Method, how: Finetuning, test: Truth, folder: RunFolder) -> MethodRow:
    """A row with the counts of its fine-tuned networks, as ``FINETUNED``: those on record, else trained now.

    Raises:
        InputError: wrong data.
    """
    if method.start is None:
        return row
    counts = {
        share: np.stack([_counts(method, how, test, share, seed, folder) for seed in range(how.seeds)])
        for share in SHARES
    }
    return replace(row, counts=row.counts | {FINETUNED: counts})


def _counts(method: Method, how: Finetuning, test: Truth, share: float, seed: int, folder: RunFolder) -> Counts:
    """(U, K, K) of one run, a step of the probe."""
    place = f"{RUNS}/{method.file_name}-{100 * share:g}-{seed}"
    recipe = how.recipe_of(method, share, seed)
    settings = {"identity": method.identity, "recipe": recipe.model_dump(mode="json")}
    path = folder.path / place / RESULT
    step = folder.step(place, settings, (f"{place}/{RESULT}",))
    if not step.is_done:
        with step:
            listener = how.listen(f"{method.name}, {100 * share:g} %, seed {seed}") if how.listen else None
            same = step.is_begun
            model = train(recipe, path.parent, resume=same, overwrite=not same, device=how.device, listener=listener)
            counts = by_unit(test, types_at_boxes(model, how.device, test), len(how.type_names))
            write_json(path, {"counts": counts.tolist()})
    return np.array((read_json(path) or {})["counts"], np.int64)


def types_at_boxes(model: Path, device: str, test: Truth) -> NDArray[np.int64]:
    """(N,) the likeliest type of each true box, by the type head of a checkpoint whose types are those of ``test``."""
    predictor = load_model(model, device, precision="32")
    images = (rescale(sample, predictor.mpp) for sample in test.samples)
    return np.concatenate([type_boxes(predictor, image.image, image.boxes).argmax(1) for image in images])
