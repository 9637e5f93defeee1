"""Training recipes that come with the package, as YAML; ``load_recipe`` finds them by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from celldetr.config import Recipe, merge, override, parse
from celldetr.errors import InputError
from celldetr.io.safe_io import find_yaml, read_yaml

FOLDER = Path(__file__).parent


def load_recipe(
    name: str | Path,
    assignments: Sequence[str] = (),
    data: dict[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read a recipe.

    Args:
        name: of a recipe in the package, or a YAML file.
        assignments: ``dotted.key=value`` changes to it.
        data: sources and types instead of the recipe's own, from ``own_sources``.
        settings: nested changes to it, on which assignments win.

    Raises:
        InputError: no such recipe, or a wrong setting.
    """
    values = read_yaml(find_yaml(name, FOLDER, "recipe"))
    if data:
        own = values.get("model")
        values |= data | {"model": (own if isinstance(own, dict) else {}) | data["model"]}
    return parse(Recipe, _complete(override(merge(values, settings or {}), assignments)), str(name))


def _complete(values: dict[str, Any]) -> dict[str, Any]:
    """Fill ``model`` with the settings of the model that ``init`` names, where the recipe says nothing else."""
    init, own = values.get("init"), values.get("model") or {}
    if not init or not isinstance(init, str) or not isinstance(own, dict):
        return values
    from celldetr.model.checkpoint import read_card
    from celldetr.model.hub import find_model

    card = read_card(find_model(init))
    config = card.config.model_dump(mode="json")
    if not card.types_trained and "types" not in own:
        training = values.get("training")
        if not isinstance(training, dict) or training.get("objective", "supervised") == "supervised":
            raise InputError(
                f"init={init!r} was pretrained without types; name those to be learnt, e.g."
                " model.types=[lymphocyte,other]"
            )
    return values | {"model": config | own}
