"""What must hold for any input at all: it works, or ``InputError`` says why in one line.

No other exception, no hang, no endless memory.

The tests here take seconds. A campaign tries other and many more inputs:

    CELLDETR_FUZZ=50 pytest tests/hostile
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from celldetr.errors import LONGEST, InputError

EFFORT = int(os.environ.get("CELLDETR_FUZZ", "0"))
SECONDS = 20  # that nothing may take, also on a slow machine
MEMORY = 1500 * 2**20  # bytes that nothing may need, beyond what the process has


def examples(n: int) -> settings:
    """Settings of a property: half of ``n`` examples, always the same; in a campaign its effort times ``n``."""
    return settings(
        deadline=None,
        max_examples=n * EFFORT or n // 2,
        derandomize=not EFFORT,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Hang(BaseException):
    """Too long; nothing that catches exceptions swallows it."""


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refused(call: Callable[[], Any]) -> str | None:
    """Call something with hostile input: the message if it was refused, None if it worked."""
    try:
        with in_time():
            call()
    except InputError as error:
        text = str(error)
        assert text.isprintable(), text
        assert 10 < len(text) <= LONGEST, text
        return text
    return None


def in_little_memory(call: Callable[[], Any], memory: int = MEMORY) -> str | None:
    """``refused`` in a process of its own that cannot get more than ``memory`` bytes.

    A call that asks for more and survives (``MemoryError`` turned into a message) is as bad as one that gets it: on
    most machines it would get it.
    """
    if sys.platform != "linux":  # the limit is Linux's
        return refused(call)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        import resource

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
        try:
            sender.send(("", refused(call)))
        except BaseException as error:
            sender.send((f"{type(error).__name__}: {error}", None))
        os._exit(0)

    process = context.Process(target=child)
    process.start()
    process.join(3 * SECONDS)
    if process.is_alive():
        process.kill()
        raise AssertionError("hangs")
    assert process.exitcode == 0, f"the process died of it: {process.exitcode}"
    failure, message = receiver.recv()
    assert not failure, failure
    assert message is None or "memory" not in message.lower(), message
    return message


@contextmanager
def nothing_written(folder: Path) -> Iterator[None]:
    """Fail if any file under a folder appears, goes or changes."""

    def state() -> dict[str, tuple[int, int]]:
        found = {}
        for path in folder.rglob("*"):
            with suppress(OSError):
                found[str(path)] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found

    before = state()
    yield
    assert state() == before


def flipped(content: bytes, changes: list[tuple[float, int]], cut: float | None = None) -> bytes:
    """Bytes with some replaced, each at a share of the length, and the rest after ``cut`` lost."""
    out = bytearray(content)
    for where, value in changes:
        out[min(int(where * len(out)), len(out) - 1)] = value
    return bytes(out if cut is None else out[: int(cut * len(out))])
