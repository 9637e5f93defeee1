"""The journal of what was taught on a run: an append-only file of JSON lines, one a batch, each on the disk when done.

A line is one action (``celldetr.teach.actions``) with its revision (1, 2, ...), time and client. What holds now is
their replay, so nothing is ever changed in place, and undoing is one more line. A line that was cut short by a kill or
a power cut has no end; it was never confirmed to anybody and is cut off when the journal is next opened.

A client names the revision that it has seen. If somebody else has since then changed what its action is about, the
action is refused (``ConflictError``) and the client looks again; otherwise both hold.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celldetr.config.base import Config, parse
from celldetr.errors import InputError
from celldetr.io.files import flush_directory, output_errors
from celldetr.io.lock import RunLock
from celldetr.io.safe_io import is_file, read_bytes
from celldetr.teach.actions import Action, Define, Undo, as_action
from celldetr.teach.state import State, replay, voided

JOURNAL = "labels.jsonl"
JOURNAL_BYTES = 2**30


class Entry(Config):
    """One line of the journal."""

    revision: int
    time: str  # UTC, ISO 8601
    client: str
    action: Action


class ConflictError(InputError):
    """Another client has changed what an action is about since the revision that its sender had seen."""


class Journal:
    """The journal in a folder, which is held (``celldetr.io.lock``) until ``close``. Not for several threads at once.

    Attributes:
        state: what holds now.
    """

    def __init__(self, folder: Path) -> None:
        """Open or begin a journal.

        Raises:
            InputError: another process has it, it cannot be written to, or a line in it cannot be read.
        """
        self.path = folder / JOURNAL
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(folder)
        self._lock.__enter__()
        try:
            self.entries = _read(self.path, repair=True)
        except BaseException:
            self.close()
            raise
        self.state = self._replay()

    def close(self) -> None:
        """Let others have it."""
        self._lock.__exit__()

    @property
    def revision(self) -> int:
        """Of the last line; 0 of an empty journal."""
        return len(self.entries)

    def append(self, action: Action, base: int, client: str) -> State:
        """Write an action down, and return when it is on the disk.

        Args:
            action: a ``Define`` without ``type`` gets the next free number.
            base: the revision that the client has seen.
            client: name of the browser or program.

        Raises:
            ConflictError: see the module.
            InputError: the action is about a type that is not there, or the like; or the disk is full.
        """
        if not 0 <= base <= self.revision:
            raise InputError(f"`base={base}`: expected a revision from 0 to {self.revision}")
        self._check_conflicts(action, base, client)
        if isinstance(action, Define) and action.type is None:
            action = action.model_copy(update={"type": self.state.next_type})
        self.state.check(action)
        time = datetime.now(UTC).isoformat(timespec="seconds")
        entry = Entry(revision=self.revision + 1, time=time, client=client, action=action)
        self._write(entry)
        self.entries.append(entry)
        if isinstance(action, Undo):
            self.state = self._replay()
        else:
            self.state.apply(entry.revision, action)
        return self.state

    def undo(self, base: int, client: str) -> State:
        """Undo the client's last action that is not undone yet.

        Raises:
            ConflictError: see the module.
            InputError: there is none.
        """
        gone = voided(entry.action for entry in self.entries)
        mine = (entry for entry in reversed(self.entries) if entry.client == client and entry.revision not in gone)
        last = next((entry.revision for entry in mine if not isinstance(entry.action, Undo)), None)
        if last is None:
            raise InputError("there is nothing of yours to undo")
        return self.append(Undo(of=last), base, client)

    def _replay(self) -> State:
        return replay([entry.action for entry in self.entries])

    def _check_conflicts(self, action: Action, base: int, client: str) -> None:
        about = self._changed(action) | action.used()
        for entry in self.entries[base:]:
            if entry.client != client and about & self._changed(entry.action):
                by = f"revision {entry.revision}, by {entry.client}"
                raise ConflictError(f"changed elsewhere meanwhile ({by}); look again, then repeat")

    def _changed(self, action: Action) -> frozenset[Any]:
        if isinstance(action, Undo) and 1 <= action.of <= self.revision:
            return self._changed(self.entries[action.of - 1].action)
        return action.changed()

    def _write(self, entry: Entry) -> None:
        line = (json.dumps(entry.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        with output_errors(self.path), self.path.open("ab") as file:
            size = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:  # the disk is full: nothing of the line stays
                os.truncate(self.path, size)
                raise
        if entry.revision == 1:
            flush_directory(self.path.parent)


def read_state(folder: Path) -> State:
    """What holds by the journal in a folder, which another process may have open.

    Raises:
        InputError: there is no journal, or a line in it cannot be read.
    """
    if not is_file(folder / JOURNAL):
        raise InputError(f"{folder / JOURNAL}: no such file: nothing has been taught here (celldetr view)")
    return replay([entry.action for entry in _read(folder / JOURNAL, repair=False)])


def _read(path: Path, *, repair: bool) -> list[Entry]:
    """All lines that have an end; what follows the last of them is left out, and cut off the file if it is repaired."""
    if not path.exists():
        return []
    content = read_bytes(path, JOURNAL_BYTES)
    whole = content[: content.rfind(b"\n") + 1]
    if repair and len(whole) < len(content):
        with output_errors(path):
            os.truncate(path, len(whole))
    entries = []
    for number, line in enumerate(whole.splitlines(), start=1):
        where = f"{path}, line {number}"
        try:
            values = json.loads(line)
            values["action"] = as_action(values["action"], where)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{where}: not a line of a journal; restore the file, or move it away") from None
        entry = parse(Entry, values, where)
        if entry.revision != number:
            raise InputError(f"{where}: has revision {entry.revision}; restore the file, or move it away")
        entries.append(entry)
    return entries
