"""A scheduler and workers of dask on loopback, each a process of its own that can be killed or stopped.

They are forked from the server of ``children``, which has imported everything, and find discs instead of nuclei.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from helpers.children import SlowModel, context

# A worker that says nothing for so long is taken for dead. On a busy machine the living are, too: that must not matter.
SETTINGS = {"distributed.scheduler.worker-ttl": "4 s", "distributed.scheduler.allowed-failures": 30}


class LoggedModel(SlowModel):
    """Writes a line for every batch: who, and where the work is."""

    def __init__(self, log: Path, delay: float) -> None:
        super().__init__(delay=delay)
        self._log = log

    def predict_tiles(self, tiles: Sequence[Any], least_score: float | None = None) -> Any:
        with self._log.open("a") as file:
            file.write(f"{os.getpid()} {len(tiles)}\n")
        return super().predict_tiles(tiles)


def _serve_scheduler(address: Any) -> None:
    import dask
    from distributed import Scheduler

    async def serve() -> None:
        dask.config.set(SETTINGS)
        async with Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler:
            address.send(scheduler.address)
            await scheduler.finished()

    asyncio.run(serve())


def _serve_worker(scheduler: str, log: Path, delay: float, folder: Path) -> None:
    import dask
    from distributed import Worker

    import celldetr.report.summary
    from celldetr.model.inference import TilePredictor

    TilePredictor.load = lambda options: LoggedModel(log, delay)  # type: ignore[method-assign,assignment,return-value]
    celldetr.report.summary.map_embeddings = lambda table: None

    async def serve() -> None:
        dask.config.set({"distributed.worker.profile.enabled": False})
        options = {"nthreads": 1, "host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
        while True:  # as a nanny does: who was taken for dead is told to end
            async with Worker(scheduler, local_directory=str(folder), **options) as worker:
                await worker.finished()

    asyncio.run(serve())


@dataclass
class Cluster:
    """A scheduler and its workers."""

    address: str
    scheduler: BaseProcess
    workers: list[BaseProcess]
    logs: list[Path]

    def batches(self, worker: int) -> int:
        """How many batches a worker has begun."""
        return len(self.logs[worker].read_text().splitlines()) if self.logs[worker].exists() else 0


@contextmanager
def cluster(folder: Path, workers: int, delay: float = 0.02) -> Iterator[Cluster]:
    """A cluster that is ended at the end, whatever has become of it."""
    folder.mkdir(parents=True, exist_ok=True)
    receiver, sender = context().Pipe(duplex=False)
    scheduler = context().Process(target=_serve_scheduler, args=(sender,), daemon=True)
    scheduler.start()
    processes = [scheduler]
    try:
        if not receiver.poll(120):
            raise TimeoutError("the scheduler did not start")
        address = receiver.recv()
        logs = [folder / f"worker-{i}.log" for i in range(workers)]
        for log in logs:
            process = context().Process(target=_serve_worker, args=(address, log, delay, folder), daemon=True)
            process.start()
            processes.append(process)
        yield Cluster(address, scheduler, processes[1:], logs)
    finally:
        for process in processes:
            process.kill()
            process.join()
