"""Lock file of an output directory: at most one process writes there at a time.

``.lock`` names its holder, who keeps it open and locked with ``flock``. The kernel releases that however the process
ends, so the file of a killed process of this machine is taken over by whoever gets its ``flock``. The file of another
machine stands, because not every network file system passes ``flock`` on; so does any file where there is no ``flock``
(Windows, Lustre mounted without the option).
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from celldetr.errors import InputError
from celldetr.io.files import output_errors

LOCK = ".lock"
ATTEMPTS, PAUSE = 20, 0.01  # seconds; a lock file without content is being written, or its writer died just then
_held: set[int] = set()  # descriptors of the lock files that this process holds


def _release_in_child() -> None:
    """A forked child (a worker of a DataLoader) must not keep the lock of a parent that was killed."""
    for file in _held:
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)


class RunLock:
    """Holds a directory, which exists, while in context; InputError if another process does."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / LOCK
        self._file: int | None = None  # descriptor, where flock works

    def __enter__(self) -> Self:
        with output_errors(self._directory):
            for attempt in range(1, ATTEMPTS + 1):
                if self._acquire(last=attempt == ATTEMPTS):
                    return self
                time.sleep(PAUSE)
        raise self._in_use()

    def __exit__(self, *error: object) -> None:
        self._path.unlink(missing_ok=True)  # while it is locked: whoever opened it meanwhile sees that it is gone
        if self._file is not None:
            _held.remove(self._file)
            os.close(self._file)
            self._file = None

    def _acquire(self, last: bool) -> bool:
        """Whether the lock is ours now; False: it has just changed hands, try again."""
        created = True
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            created = False
            try:
                file = os.open(self._path, os.O_RDWR)
            except FileNotFoundError:
                return False
        with ExitStack() as stack:
            stack.callback(os.close, file)
            locked = _flock(file)
            if locked is False or (locked is None and not created):
                raise self._in_use()
            if not _is_at(file, self._path):
                return False
            holder = self._holder()
            if not (created or holder or last):
                return False
            if holder and not _was_here(holder):
                raise self._in_use()
            try:
                _write_self(file)
            except OSError:  # the disk is full
                self._path.unlink(missing_ok=True)
                raise
            if locked:
                stack.pop_all()
                self._file = file
                _held.add(file)
        return True

    def _holder(self) -> dict[str, Any]:
        """Content of the lock file; empty if it has none (yet)."""
        try:
            holder = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _in_use(self) -> InputError:
        holder = self._holder()
        who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
        remedy = f"wait for it, or delete {self._path} if it is no longer running"
        return InputError(f"{self._directory}: in use by another run ({who}); {remedy}")


def _flock(file: int) -> bool | None:
    """Lock an open file: True if that worked, False if another process has, None if it cannot be done here."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file still has its name: the holder before may have deleted it."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _write_self(file: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"host": platform.node(), "boot": _boot_id(), "pid": os.getpid(), "since": since}
    os.ftruncate(file, 0)
    os.write(file, json.dumps(holder).encode())
    os.fsync(file)  # from now on other machines can read it


def _was_here(holder: dict[str, Any]) -> bool:
    """Whether a holder whose ``flock`` we got was a process of this machine, or of a container on it."""
    boot = _boot_id()
    return holder.get("host") == platform.node() or (boot is not None and holder.get("boot") == boot)


def _boot_id() -> str | None:
    """Names the running kernel, the same in all its containers; None outside Linux."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return None
