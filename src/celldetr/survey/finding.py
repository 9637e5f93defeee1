"""What ``celldetr check`` has found out about one file or folder, and how it is shown."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from celldetr.errors import DataWarning, InputError
from celldetr.io.safe_io import shown_path
from celldetr.report.contact_sheet import Picture


@dataclass
class Finding:
    """What one path holds.

    Attributes:
        path: the file or folder, as given.
        kind: ``labels``, ``slide``, ``section`` or ``folder``.
        facts: name and value of what was seen, in the order to be shown.
        notes: what is doubtful or left out, one sentence each.
        refusal: why it cannot be used; "" if it can.
        pictures: of it, for a person to look at.
    """

    path: Path
    kind: str
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusal: str = ""
    pictures: list[Picture] = field(default_factory=list)

    @property
    def is_doubtful(self) -> bool:
        """Whether something is to be looked at before this is used."""
        return bool(self.notes or self.refusal)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Take the doubts that are said in here for notes, and an ``InputError`` for the refusal."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", DataWarning)
            try:
                yield
            except InputError as error:
                self.refusal = str(error)
        texts = [str(each.message) for each in said if issubclass(each.category, DataWarning)]
        self.notes = list(dict.fromkeys([*texts, *self.notes]))

    def table(self) -> list[str]:
        """Lines of text."""
        lines = [f"{shown_path(self.path)}: {'cannot be used' if self.refusal else self.kind}"]
        width = max(map(len, self.facts), default=0)
        lines += [f"  {key:{width}}  {value}" for key, value in self.facts.items()]
        lines += [f"  refused: {self.refusal}"] if self.refusal else []
        return [*lines, *(f"  doubtful: {note}" for note in self.notes)]
