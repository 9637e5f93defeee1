"""``SET/spatial.json``: what each step was made with, so that what is finished and unchanged is kept.

A step has a fingerprint: of its own settings and input files, and of the steps that it stands on. One whose fingerprint
is on record, and whose files are there, need not run again; when a step changes, those after it are stale.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from celldetr.errors import InputError
from celldetr.io.files import output_errors, write_json
from celldetr.io.safe_io import load_json

RECORD_FILE = "spatial.json"
STEPS_FOLDER = "steps"
FORMAT, VERSION = "celldetr-spatial", 1
# step -> the steps whose results it reads, in the order in which they run
STEPS: dict[str, tuple[str, ...]] = {
    "read": (),
    "qc": ("read",),
    "type": ("read", "qc"),
    "nuclei": (),
    "align": ("read", "qc", "nuclei"),
    "write": ("read", "qc", "type", "nuclei", "align"),
}


@dataclass
class Step:
    """One step on record.

    Attributes:
        fingerprint: see above.
        settings: what the step was given, JSON-able.
        facts: what it found, JSON-able: numbers for the report.
        seconds: that it took.
    """

    fingerprint: str
    settings: dict[str, Any]
    facts: dict[str, Any]
    seconds: float


@dataclass
class Record:
    """The steps of one set.

    Attributes:
        folder: of the set.
        steps: by name, those that were run.
    """

    folder: Path
    steps: dict[str, Step] = field(default_factory=dict)

    @property
    def files(self) -> Path:
        """Folder of the steps' tables."""
        return self.folder / STEPS_FOLDER

    def settings(self, name: str) -> dict[str, Any]:
        """What a step was given.

        Raises:
            InputError: it was not run yet.
        """
        if name not in self.steps:
            raise InputError(f"{self.folder}: step {name!r} was not run yet; run celldetr spatial {name} first")
        return self.steps[name].settings

    def fingerprint(self, name: str, settings: Mapping[str, Any]) -> str:
        """Of a step with these settings, on the steps as they are."""
        before = [self.steps[other].fingerprint if other in self.steps else "" for other in STEPS[name]]
        text = json.dumps([name, dict(settings), before], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def stale(self, name: str) -> bool:
        """Whether a step that was run stands on others which have changed since."""
        step = self.steps[name]
        return step.fingerprint != self.fingerprint(name, step.settings)

    def run(
        self,
        name: str,
        settings: Mapping[str, Any],
        outputs: tuple[Path, ...],
        work: Callable[[], dict[str, Any]],
        *,
        keep: bool = True,
    ) -> bool:
        """Run a step, unless it is done already.

        Args:
            name: of ``STEPS``.
            settings: all that decides its result beside the steps before; input files as ``stamp`` gives them.
            outputs: what it writes.
            work: does it, and returns its facts.
            keep: a finished step with the same fingerprint is left as it is.

        Returns:
            whether it ran.

        Raises:
            InputError: a step before it was not run, or has to be run again; and what ``work`` raises.
        """
        for other in STEPS[name]:
            self.settings(other)
            if self.stale(other):
                raise InputError(
                    f"{self.folder}: step {other!r} stands on steps that were run again since;"
                    f" run celldetr spatial {other} first"
                )
        fingerprint = self.fingerprint(name, settings)
        done = self.steps.get(name)
        if keep and done and done.fingerprint == fingerprint and all(path.exists() for path in outputs):
            return False
        with output_errors(self.files):
            self.files.mkdir(parents=True, exist_ok=True)
        if self.steps.pop(name, None):  # what it wrote is being replaced: it is not to pass for done
            self._save()
        start = time.monotonic()
        facts = work()
        self.steps[name] = Step(fingerprint, dict(settings), facts, round(time.monotonic() - start, 3))
        self._save()
        return True

    def forget(self) -> None:
        """Take all steps for not run; their files stay until they are replaced."""
        self.steps.clear()
        self._save()

    def _save(self) -> None:
        steps = {name: self.steps[name].__dict__ for name in STEPS if name in self.steps}
        content = {"format": FORMAT, "version": VERSION, "celldetr": version("celldetr"), "steps": steps}
        write_json(self.folder / RECORD_FILE, content)


def open_record(folder: Path) -> Record:
    """The record of a set; an empty one where there is none yet.

    Raises:
        InputError: ``spatial.json`` is not one.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return Record(folder)
    values = load_json(path)
    try:
        if values["format"] != FORMAT or values["version"] != VERSION:
            raise KeyError("format")
        steps = {
            str(name): Step(
                str(step["fingerprint"]), dict(step["settings"]), dict(step["facts"]), float(step["seconds"])
            )
            for name, step in values["steps"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not written by celldetr spatial ({error}); choose another folder") from None
    unknown = sorted(set(steps) - set(STEPS))
    if unknown:
        raise InputError(f"{path}: has a step {unknown[0]!r} that this version does not know; update CellDETR")
    return Record(folder, steps)


def stamp(path: Path | None) -> list[Any] | None:
    """What is recorded of an input file or folder: where it is, how large, and when it was changed.

    A folder's stamp is that of its own files, without those in folders inside it.
    """
    if path is None:
        return None
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path] if path.exists() else []
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]
    return [str(path.absolute()), sum(size for _, size, _ in stats), digest]
