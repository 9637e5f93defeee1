"""Dataset cards: what a set of labelled images is, as YAML: where it is, its format, types, splits and licence.

The data are not part of the package: ``root`` is relative to the directory in the environment variable
``CELLDETR_DATA`` when it is set, else to the card's own directory. Folders that a card names are only read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, PrivateAttr, field_validator, model_validator

from celldetr.config import Config, Positive, Probability, parse
from celldetr.errors import InputError, near
from celldetr.io.safe_io import expand_user, find_yaml, is_dir, read_yaml

CARDS = Path(__file__).parent / "cards"  # the cards that come with the package
DATA_VARIABLE = "CELLDETR_DATA"

Split = str | int | list[str]
Options = TypeVar("Options", bound=Config)


class DatasetCard(Config):
    """One dataset; values of ``splits`` are a list file, a folder, a fold number or a list of names, by ``format``."""

    name: str
    title: str
    format: str  # a reader in celldetr.data.readers, or an entry point of celldetr.readers
    root: str = "."
    mpp: Positive | None = None  # micrometres per pixel of the images; none: the reader has it for each image
    types: dict[str, list[str]]  # type name -> labels of the source that mean it; one type without labels means all
    splits: dict[str, Split]
    licence: str
    citation: str
    url: str = ""
    nucleus_um: tuple[Positive, Positive] | None = None  # bounds of the median size, for cells larger than usual, say
    may_ship: bool = False  # may train weights that are given to others under the package's licence
    group_pattern: re.Pattern[str] | None = None  # its first group, found in an image's name, is the patient
    # An outline of less may be of two nuclei, and is not learned, but its box is; of masks that a watershed has cut.
    least_solidity: Probability = 0.0
    options: dict[str, Any] = Field(default_factory=dict)  # what only this format's reader needs

    _folder: Path = PrivateAttr(default=Path())

    @field_validator("types", mode="before")
    @classmethod
    def _labels_are_text(cls, value: Any) -> Any:
        """YAML reads ``[1, 2]`` as numbers; labels are compared as text."""
        if not isinstance(value, dict):
            return value
        return {name: list(map(str, labels)) if isinstance(labels, list) else labels for name, labels in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        labels = [label for group in self.types.values() for label in group]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"types: label {twice[0]!r} belongs to more than one type")
        if not self.types:
            raise ValueError("types: at least one is needed, e.g. {nucleus: []}")
        bare = [name for name, group in self.types.items() if not group]
        if bare and len(self.types) > 1:
            raise ValueError(f"types: {bare[0]!r} needs the labels that mean it; only a single type can do without")
        if self.group_pattern is not None and not self.group_pattern.groups:
            raise ValueError(f"group_pattern {self.group_pattern.pattern!r} needs a group in parentheses: the patient")
        return self

    @property
    def type_names(self) -> tuple[str, ...]:
        """Names of the types, in the order of ``Sample.types``."""
        return tuple(self.types)

    @property
    def single_type(self) -> bool:
        """Whether every nucleus is of the one type, whatever its label."""
        return not any(self.types.values())

    @property
    def label_index(self) -> dict[str, int]:
        """Label of the source -> index into ``type_names``."""
        return {label: index for index, labels in enumerate(self.types.values()) for label in labels}

    def options_as(self, kind: type[Options]) -> Options:
        """The options of a reader.

        Raises:
            InputError: a key of them is wrong.
        """
        return parse(kind, self.options, f"options of dataset {self.name!r}")

    def directory(self) -> Path:
        """Where the data are.

        Raises:
            InputError: there is no such directory.
        """
        root = expand_user(Path(self.root))
        base = os.environ.get(DATA_VARIABLE)
        path = (Path(base).expanduser() if base else self._folder) / root  # an absolute root stands for itself
        if not is_dir(path):
            source = f" (the data: {self.url})" if self.url else ""
            raise InputError(
                f"dataset {self.name!r}: no directory {path}; set {DATA_VARIABLE} to the directory that holds "
                f"{self.root!r}, or write root= in the card{source}"
            )
        return path

    def beside(self, file: str) -> Path:
        """A file that belongs to the card and not to the data: relative to the card's own folder, or absolute."""
        return self._folder / expand_user(Path(file))

    def group_of(self, name: str) -> str:
        """The patient in an image's name by ``group_pattern``; the name itself where there is no pattern.

        Raises:
            InputError: the pattern does not match.
        """
        if self.group_pattern is None:
            return name
        match = self.group_pattern.search(name)
        if match is None:
            pattern = self.group_pattern.pattern
            raise InputError(f"dataset {self.name!r}: group_pattern {pattern!r} finds no patient in {name!r}")
        return match.group(1)

    def split(self, name: str) -> Split:
        """What the card says of a split.

        Raises:
            InputError: no such split.
        """
        if name not in self.splits:
            raise InputError(f"dataset {self.name!r}: no split {name!r}; {near(name, self.splits)}")
        return self.splits[name]

    def choose_split(self, name: str | None, default: str) -> str:
        """The split called ``name``; None: ``default``, or the only one there is, as in a folder of labels.

        Raises:
            InputError: no such split.
        """
        chosen = name or (default if default in self.splits or len(self.splits) != 1 else next(iter(self.splits)))
        self.split(chosen)
        return chosen


def load_card(name_or_path: str | Path) -> DatasetCard:
    """Read a dataset card, a YAML file or one that comes with the package.

    Raises:
        InputError: no such card, or a key of it is wrong.
    """
    path = find_yaml(name_or_path, CARDS, "dataset card", "a file nor a folder of labels")
    card = parse(DatasetCard, read_yaml(path), str(path))
    card._folder = path.resolve().parent
    return card
