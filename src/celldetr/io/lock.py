"""One run at a time in an output directory: a lock file that says who holds it, and that a crash does not leave for
ever.

The file names the machine, the process and when that started, and the holder keeps it open and locked (``flock``),
which ends with the process however that ends. Whoever gets that lock on a file left by the same machine knows that its
writer is gone, and has taken over in the same instant: of several that try, one succeeds. A holder deletes the
file before letting go, so who gets the lock looks whether the file is still the one in the directory. A new file is
written and locked under another name and then linked to its own, so nobody ever sees it unlocked or half written.

Some file systems know no ``flock`` (Lustre without its option). There the process is asked whether it lives, and taking
over happens under a second such file. A run on another machine cannot be asked, and not every network file system
passes ``flock`` on, so its lock stands until the user removes it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from celldetr.errors import InputError
from celldetr.io.files import output_errors

LOCK = ".lock"
TAKEOVER = ".lock.takeover"
ATTEMPTS = 100  # each but the last was lost to a holder that let go at that very moment


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
        self._file: int | None = None  # the open lock file, where flock works

    def __enter__(self) -> Self:
        with output_errors(self._directory):
            for _ in range(ATTEMPTS):
                taken = self._take()
                if taken is not None:
                    break
        if not taken:
            raise InputError(f"{self._directory}: in use by another run ({self._holder_name()}")
        for draft in self._directory.glob(f"{LOCK}.*.tmp"):  # of a process that was killed; the living take another
            draft.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _take(self) -> bool | None:
        """True if the lock is ours now, False if somebody has it, None if its file vanished meanwhile: try again."""
        draft = self._directory / f"{LOCK}.{uuid4().hex}.tmp"
        file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        try:
            flock = bool(_flock(file))
            os.write(file, _myself(flock))
            if not flock:  # nothing needs it open, and Windows deletes no file that is
                os.close(file)
                file = -1
            if _publish(draft, self._path):
                self._file, file = (file if flock else None), -1
                return True
            return self._take_over() if flock else self._take_over_guarded(draft)
        finally:
            draft.unlink(missing_ok=True)
            if file >= 0:
                os.close(file)

    def _take_over(self) -> bool | None:
        try:
            file = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            if not _flock(file):
                return False
            if not _is_same(file, self._path):
                return None
            if not is_gone(_parse(os.pread(file, 4096, 0)), flocked=True):
                return False
            os.ftruncate(file, 0)
            os.pwrite(file, _myself(flock=True), 0)
            self._file, file = file, -1
            return True
        finally:
            if file >= 0:
                os.close(file)

    def _take_over_guarded(self, draft: Path) -> bool:
        if not is_gone(_read(self._path), flocked=False):
            return False
        guard = self._directory / TAKEOVER
        if not _publish(draft, guard):
            return False
        try:
            # Only who has the guard removes the file of a dead process, so the one judged now is the one removed.
            if is_gone(_read(self._path), flocked=False):
                self._path.unlink(missing_ok=True)
            return _publish(draft, self._path)
        finally:
            guard.unlink(missing_ok=True)

    def _holder_name(self) -> str:
        holder = _read(self._path) or {}
        files = [path for path in (self._path, self._directory / TAKEOVER) if path.exists()] or [self._path]
        return (
            f"process {holder.get('pid')} on {holder.get('host')}); wait for it, or delete "
            f"{' and '.join(map(str, files))} if it is no longer running"
        )


def _is_same(file: int, path: Path) -> bool:
    """Whether an open file is the one that has a name; a holder may have deleted it."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _flock(file: int) -> bool | None:
    """Lock an open file: True if that worked, False if somebody else has, None if it cannot be done here."""
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


def _publish(draft: Path, path: Path) -> bool:
    """Give a file a second name, unless that is taken."""
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    except OSError:  # this file system has no links
        try:
            with path.open("xb") as file:
                file.write(_myself(flock=False))
        except FileExistsError:
            return False
    return True


def _myself(flock: bool) -> bytes:
    pid = os.getpid()
    values = {"host": platform.node(), "boot": boot_id(), "pid": pid, "started": process_start(pid), "flock": flock}
    return json.dumps(values).encode()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return _parse(path.read_bytes())
    except OSError:
        return None


def _parse(content: bytes) -> dict[str, Any] | None:
    """What a lock file says; None if it is being written at this moment, or was when its writer died."""
    try:
        holder = json.loads(content)
    except ValueError:
        return None
    return holder if isinstance(holder, dict) else None


def boot_id() -> str | None:
    """Names a running kernel: the same in all its containers, another after a restart; None where there is none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return None


def process_start(pid: int) -> str | None:
    """When a process started, in a form only good for comparison; None where the system does not say (not Linux)."""
    try:
        # The name, in parentheses, may hold anything; the 22nd field is the start in clock ticks since boot.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def is_gone(holder: dict[str, Any] | None, flocked: bool) -> bool:
    """Whether the process that wrote a lock has certainly ended.

    Args:
        holder: what it wrote; None if that is not readable.
        flocked: whether we hold the flock of the file, which a living holder would have unless it wrote otherwise.
    """
    if holder is None:
        return flocked  # it is written under the flock, so its writer died while writing
    boot, host, pid = holder.get("boot"), holder.get("host"), holder.get("pid")
    same_kernel = boot == boot_id() if boot else host == platform.node()
    if not same_kernel:
        return bool(boot) and host == platform.node()  # this machine, before it was started anew
    if holder.get("flock") is True:
        return flocked
    if not isinstance(pid, int) or os.name != "posix" or host != platform.node():
        return False
    try:
        os.kill(pid, 0)  # asks, does not kill
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    started = process_start(pid)
    return None not in (started, holder.get("started")) and started != holder["started"]
