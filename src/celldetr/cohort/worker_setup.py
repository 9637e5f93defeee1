"""What a worker of ``--cluster local`` does first (a preload of dask's)."""

from __future__ import annotations

import signal
from typing import Any

from celldetr.model.cpu_caches import limit_caches


def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the command: it ends its workers in order.

    PyTorch is not loaded yet, so that its caches can be bounded.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_caches()
