"""One run at a time in an output directory: a lock file that says who holds it, and that a crash does not leave for
ever.

The file names host, process and the moment the process started. A later run on the same host takes over if that
process is gone, or if its number now belongs to a process started at another moment. A run on another host cannot be
asked, so its lock stands until the user removes it.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from celldetr.errors import InputError
from celldetr.files import output_errors

LOCK = ".lock"


class RunLock:
    """Holds an output directory while in context.

    Args:
        directory: of the slide's output; it exists.

    Raises:
        InputError: on entering, if another run holds it.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK
        self._directory = directory

    def __enter__(self) -> Self:
        for _ in range(2):
            with output_errors(self._directory):
                if self._create():
                    return self
            holder = self._holder()
            if not is_gone(holder):
                break
            self._path.unlink(missing_ok=True)
        raise InputError(
            f"{self._directory}: in use by another run (process {holder.get('pid')} on {holder.get('host')}); "
            f"wait for it, or delete {self._path} if it is no longer running"
        )

    def _create(self) -> bool:
        try:
            handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"host": platform.node(), "pid": os.getpid(), "started": process_start(os.getpid())}, file)
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)

    def _holder(self) -> dict[str, Any]:
        try:
            holder = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # being written or removed at this moment
        return holder if isinstance(holder, dict) else {}


def process_start(pid: int) -> str | None:
    """When a process started, in a form only good for comparison; None where the system does not say (not Linux)."""
    try:
        # The name, in parentheses, may hold anything; the 22nd field is the start in clock ticks since boot.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def is_gone(holder: dict[str, Any]) -> bool:
    """Whether the process that wrote a lock has certainly ended."""
    pid = holder.get("pid")
    if holder.get("host") != platform.node() or not isinstance(pid, int) or os.name != "posix":
        return False
    try:
        os.kill(pid, 0)  # asks, does not kill
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    started = process_start(pid)
    return None not in (started, holder.get("started")) and started != holder["started"]
