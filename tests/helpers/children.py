"""The command line in processes of their own, which can be killed; forked from one that has imported everything.

Started anew, each would import torch for seconds. The network is replaced by ``BlobModel``, slowed down so that there
is time to interrupt it; for ``embed``, which needs a network, by the smallest there is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.model.inference import TilePredictor
from helpers.blobs import BlobModel
from helpers.networks import predictor

IMPORTED = (
    "celldetr.api", "celldetr.cli", "celldetr.cells.export", "celldetr.slide.image_reader", "celldetr.report.overview",
    "celldetr.report.summary", "matplotlib", "pandas", "pyarrow.parquet", "rich.progress", "scipy.ndimage",
)  # fmt: skip


@dataclass
class SlowModel(BlobModel):
    """Takes a while for every batch; for ever after ``stay_at`` of them."""

    delay: float = 0.0
    stay_at: int | None = None

    def predict_tiles(self, tiles: Sequence[NDArray[np.uint8]], least_score: float | None = None) -> Any:
        time.sleep(600 if self.calls == self.stay_at else self.delay)
        return super().predict_tiles(tiles)


def slow_network(delay: float) -> TilePredictor:
    """A network with random weights that takes a while for every tile."""
    model = predictor()
    represent = model.network.represent

    def slowly(*arguments: Any) -> Any:
        time.sleep(delay)
        return represent(*arguments)

    model.network.represent = slowly  # type: ignore[method-assign]
    return model


def watch_writing(folder: str, log: Path, die_at: int | None) -> None:
    """Note each time that a file below ``folder`` is to be created, renamed or removed; before one of them, die.

    What is on the disk changes at these moments only, and while a file is written under its temporary name.

    Args:
        folder: of the output.
        log: gets a line each.
        die_at: number of the one that is not survived (SIGKILL); None: all are.
    """
    changing = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        new = event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if (new or event in changing) and str(arguments[0]).startswith(folder):
            os.write(written, f"{event} {str(arguments[0]).removeprefix(folder)}\n".encode())
            if count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    sys.addaudithook(hook)


def context() -> ForkServerContext:
    """Where processes come from: the same server for all tests."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["helpers.children", "helpers.lock_race", *IMPORTED])
    return found


def run_cli(
    arguments: Sequence[str],
    delay: float,
    errors: Path,
    limit: int | None,
    stay_at: int | None,
    watch: tuple[str, Path, int | None] | None,
) -> None:
    """``celldetr`` with these arguments; standard error goes to a file.

    Args:
        arguments: of the command line.
        delay: seconds that the model takes for a batch.
        errors: the file.
        limit: most bytes that a file may get, as a full disk would have it; None: any.
        stay_at: batches after which the model never answers.
        watch: arguments of ``watch_writing``.
    """
    import celldetr.report.summary
    from celldetr import cli

    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server ignores it
    if limit is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    embeds = arguments[0] == "embed"
    TilePredictor.load = lambda options: slow_network(delay) if embeds else SlowModel(delay=delay, stay_at=stay_at)  # type: ignore[method-assign,assignment]
    celldetr.report.summary.map_embeddings = lambda table: None  # a drawing that takes longer than all the rest
    sys.argv = ["celldetr", *arguments]
    if watch is not None:
        watch_writing(*watch)
    cli.main()


def start(
    arguments: Sequence[object],
    errors: Path,
    *,
    delay: float = 0.02,
    limit: int | None = None,
    stay_at: int | None = None,
    watch: tuple[str, Path, int | None] | None = None,
) -> BaseProcess:
    """Start ``celldetr``."""
    child = context().Process(target=run_cli, args=([*map(str, arguments)], delay, errors, limit, stay_at, watch))
    child.start()
    return child
