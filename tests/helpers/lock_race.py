"""What a process does in a race for locks; a module of its own, so that starting many costs little."""

from __future__ import annotations

from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from celldetr.errors import InputError
from celldetr.io.lock import RunLock


def race(folder: Path, turns: int, start: Barrier, end: Barrier, results: Any) -> None:
    """Try to lock each directory at the same moment as the others, and hold what was won until all have tried."""
    for turn in range(turns):
        lock = RunLock(folder / str(turn))
        start.wait(60)
        try:
            lock.__enter__()
        except InputError:
            won = False
        else:
            won = True
        end.wait(60)
        if won:
            lock.__exit__(None, None, None)
        results.put((turn, won))
