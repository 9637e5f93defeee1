"""Counts what is not read of a file or folder, and says it in one sentence: nothing is lost without a word."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from celldetr.errors import doubt

NAMED = 3  # examples of a reason


class LeftOut:
    """What was left out of a file or folder.

    Args:
        place: the file or folder, for the sentence.
        did: what is said of it.
    """

    def __init__(self, place: Path | str, did: str = "left out") -> None:
        self._place, self._did = place, did
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, what: str, example: str = "", count: int = 1) -> None:
        """Count objects; ``what`` names them in the plural, with the reason."""
        self._counts[what] += count
        if example and len(self._examples.setdefault(what, [])) <= NAMED:
            self._examples[what].append(example)

    def tell(self) -> None:
        """Warn of what was counted since the last time, if anything was."""
        parts = []
        for what, count in self._counts.items():
            examples = self._examples.get(what, [])
            named = ", ".join(examples[:NAMED]) + (", ..." if count > NAMED and len(examples) > NAMED else "")
            parts.append(f"{count:,} {what}" + (f" ({named})" if named else ""))
        self._counts.clear()
        if parts:
            doubt(f"{self._place}: {self._did}: {'; '.join(parts)}")
