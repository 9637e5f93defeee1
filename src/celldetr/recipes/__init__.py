"""Training recipes that come with the package, as YAML; ``load_recipe`` finds them by name."""

from __future__ import annotations

from pathlib import Path

from celldetr.config import Recipe, override, parse
from celldetr.errors import InputError, near
from celldetr.untrusted import expand_user, is_file, read_yaml

FOLDER = Path(__file__).parent


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name: str | Path, assignments: list[str] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        name: of a recipe in the package, or a YAML file.
        assignments: ``dotted.key=value`` changes to it.

    Raises:
        InputError: no such recipe, or a wrong setting; near names are listed.
    """
    path = expand_user(Path(name))
    if not is_file(path):
        if path.suffix in (".yaml", ".yml") or str(name) not in recipe_names():
            raise InputError(
                f"no recipe {str(name)!r}: neither a file nor a known name; {near(str(name), recipe_names())}"
            )
        path = FOLDER / f"{name}.yaml"
    return parse(Recipe, override(read_yaml(path), assignments or []), str(name))
