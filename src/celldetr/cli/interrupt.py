"""Ending a command early, by Ctrl-C (SIGINT) or as a cluster ends a job (SIGTERM): the first tidies up, the second not.

The first signal raises ``Interrupted`` in the main thread, so that work in progress is left as a failure leaves it:
resumable, and saying why it ended. Tidying up may wait for a read from a share that is gone; the second signal waits
for nothing. That is what ``kill -9`` does, which runs survive too.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal has asked the process to end.

    Attributes:
        code: exit code that says so, 128 and the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise ``Interrupted`` in here at the first signal. What the process was started to ignore stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    owner = os.getpid()
    came = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if os.getpid() != owner:  # a forked process: it is not the one that tidies up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if came:
            os.write(2, b"\nstopped at once; what is finished is kept\n")
            os._exit(128 + number)
        came = True
        raise Interrupted(number)

    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        if not came:  # else the process is ending, and must still hear the second one
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def resumable(how: str = "run again with --resume") -> Iterator[None]:
    """Say what an interruption leaves, and how to continue; typer itself would end without a word."""
    try:
        with stoppable():
            yield
    except KeyboardInterrupt as stop:
        typer.echo(f"interrupted; what is finished is kept, {how} to continue", err=True)
        raise typer.Exit(stop.code if isinstance(stop, Interrupted) else 130) from None
