"""Fine types to coarse ones: a YAML file of levels, each naming the parent of every type of the level below.

    title: ...
    levels:
      - name: ten                 # the types of the reference -> ten
        parents: {CD8+ T: T/NK, NK: T/NK, Plasma: plasma, Doublet: ""}
      - name: pannuke             # the ten -> PanNuke's
        parents: {T/NK: inflammatory, plasma: inflammatory}

``""`` makes a type unknown: its probability belongs to no coarse type. A name that is itself a parent of the level
stays.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from celldetr.config import Config, TypeName, parse
from celldetr.errors import InputError, near
from celldetr.io.safe_io import find_yaml, read_yaml
from celldetr.spatial.annotate.annotation import Annotation, uniform

HIERARCHIES = Path(__file__).parents[1] / "hierarchies"  # those that come with the package


class TypeLevel(Config):
    """One step from fine to coarse."""

    name: TypeName
    parents: dict[str, str] = Field(min_length=1)  # type of the level below -> of this one; "": unknown

    @property
    def types(self) -> tuple[str, ...]:
        """Of this level, in the order of the file."""
        return tuple(dict.fromkeys(parent for parent in self.parents.values() if parent))


class Hierarchy(Config):
    """Levels of types, finest first."""

    title: str = ""
    levels: tuple[TypeLevel, ...] = Field(min_length=1, max_length=20)

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the levels, finest first."""
        return tuple(level.name for level in self.levels)


def load_hierarchy(name_or_path: str | Path) -> Hierarchy:
    """Read a hierarchy: a YAML file, or one that comes with the package by its name."""
    path = find_yaml(name_or_path, HIERARCHIES, "hierarchy of types")
    return parse(Hierarchy, read_yaml(path), str(path))


def coarsen(annotation: Annotation, hierarchy: Hierarchy, level: str) -> Annotation:
    """Sum the probabilities of fine types into those of a level.

    A cell is unknown where it was, or where more of its probability goes to "" than to any type.

    Raises:
        InputError: no such level, or a type that the hierarchy does not know.
    """
    if level not in hierarchy.level_names:
        raise InputError(f"the hierarchy has no level {level!r}; {near(level, hierarchy.level_names)}")
    last = hierarchy.level_names.index(level)
    parents = list(annotation.types)
    for step in hierarchy.levels[: last + 1]:
        parents = [_parent(name, step) for name in parents]
    names = hierarchy.levels[last].types
    if not names:
        raise InputError(f"level {level!r} has no type: its parents are all empty")
    sums = annotation.probabilities @ np.array(
        [[parent == name for name in (*names, "")] for parent in parents], np.float32
    )
    p, unknown = sums[:, :-1], sums[:, -1]
    known = annotation.known & (unknown < p.max(axis=1))
    p[~annotation.known] = uniform(1, len(names))
    facts = annotation.facts | {"level": level, "fine_types": list(annotation.types)}
    return Annotation(np.minimum(p, 1), names, known, facts)


def _parent(name: str, level: TypeLevel) -> str:
    if name in level.parents:
        return level.parents[name]
    if not name or name in level.types:
        return name
    known = near(name, [*level.parents, *level.types])
    raise InputError(f"level {level.name!r} has no parent for type {name!r}; {known}; map it to '' to leave it out")
