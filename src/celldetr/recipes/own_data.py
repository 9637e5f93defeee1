"""Somebody's own labels as the data of a recipe: what ``celldetr train --data`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celldetr.data.autocard import SPLIT, read_own
from celldetr.data.patch_set import is_patch_set, read_info
from celldetr.errors import InputError, near
from celldetr.io.safe_io import expand_user, is_dir

FEWEST = 2  # cells of a type: one to train on, one to validate on
TRAIN, VALIDATION = "train", ("validation", "val", "valid")  # folders in the folder of the data


def own_sources(path: Path, mpp: float | None = None, mapping: dict[str, str] | None = None) -> dict[str, Any]:
    """Sources and types for ``load_recipe``.

    Args:
        path: a folder or file as ``celldetr.data.autocard`` reads it, or a folder with one called ``train`` and one
            called ``validation``, ``val`` or ``valid``. A patch set has splits of these names.
        mpp: micrometres per pixel of the images; needed where they do not say it.
        mapping: class -> type of the model, or "" for a cell of unknown type; classes not named are types themselves.

    Raises:
        InputError: no labels, an unknown class in ``mapping``, or a type with fewer than two cells.
    """
    path = expand_user(path).absolute()
    validation = [path / name for name in VALIDATION if is_dir(path / name)]
    train = path / TRAIN if validation and is_dir(path / TRAIN) else path
    data = read_own(train, mpp)
    classes = data.card.type_names
    for name in mapping or {}:
        if name not in classes:
            raise InputError(f"{train}: has no class {name!r}; {near(name, classes)}")
    pairs = {name: name for name in classes} | (mapping or {})
    types = list(dict.fromkeys(name for name in pairs.values() if name))
    # Of compositions of spots types are learned without a labelled cell (training.w_composition).
    only_spots = is_patch_set(train) and not any(data.counts.values())
    for kind in types:
        count = sum(data.counts.get(name, 0) for name in classes if pairs[name] == kind)
        if data.card.single_type:
            count = sum(data.counts.values())
        if count < FEWEST and not only_spots:
            raise InputError(
                f"{train}: type {kind!r} has {count} labelled cell{'s' if count != 1 else ''}, expected at least"
                f" {FEWEST}; label more of it, leave it out with `mapping={kind}=`, or join it"
                f" with `mapping={kind}=OTHER`"
            )
    if not types:
        raise InputError(f"{train}: no class is left as a type; it has {', '.join(map(repr, classes))}")

    def source(folder: Path, classes: tuple[str, ...]) -> dict[str, Any]:
        known = {name: pairs[name] for name in classes if name in pairs}
        return {"card": str(folder), "split": SPLIT, "mpp": mpp, "types": known}

    if train == path and is_patch_set(path):
        own = source(path, classes)
        return {
            "train": [own | {"split": "train"}],
            "validation": [own | {"split": "val"}],
            "model": {"types": types},
        }
    return {
        "train": [source(train, classes)],
        "validation": [source(each, read_own(each, mpp).card.type_names) for each in validation[:1] if train != path],
        "model": {"types": types},
    }


def patch_sources(path: Path) -> dict[str, Any]:
    """A patch set as sources for ``load_recipe`` where types are not learnt: what ``celldetr pretrain --data`` does.

    Raises:
        InputError: it is no patch set.
    """
    path = expand_user(path).absolute()
    if not is_patch_set(path):
        raise InputError(
            f"{path}: no patch set; make one with celldetr data sample SLIDES -o SET, or name other data in the recipe:"
            " 'train=[{card: DATA, split: train}]' 'validation=[{card: DATA, split: val}]'"
        )
    types = list(read_info(path).types)  # where there are some, they colour figures
    return {
        "train": [{"card": str(path), "split": "train"}],
        "validation": [{"card": str(path), "split": "val"}],
        "model": {"types": types} if types else {},
    }
