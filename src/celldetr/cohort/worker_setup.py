"""What a worker of ``--cluster local`` does first (a preload of dask's)."""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the command: it ends its workers in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
