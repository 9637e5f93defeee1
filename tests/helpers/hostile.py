"""Calls with files from strangers: they work or raise ``InputError``, in bounded time and memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celldetr.errors import LONGEST, InputError

SECONDS = 20  # that nothing may take, also on a slow machine
MEMORY = 1500 * 2**20  # bytes that nothing may need, beyond what the process has


def refused(call: Callable[[], Any]) -> str | None:
    """The one-line message of the ``InputError`` that a call raises; None if it works."""
    try:
        call()
    except InputError as error:
        text = str(error)
        assert text.isprintable(), text
        assert 10 < len(text) <= LONGEST, text
        return text
    return None


def in_little_memory(call: Callable[[], Any], memory: int = MEMORY) -> str | None:
    """``refused`` in a process of its own that cannot get more than ``memory`` bytes, nor more than ``SECONDS``.

    A call that asks for more and survives (``MemoryError`` turned into a message) is as bad as one that gets it: on
    most machines it would get it.
    """
    if sys.platform != "linux":  # the limit is Linux's
        return refused(call)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        import resource

        signal.alarm(SECONDS)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
        try:
            sender.send(("", refused(call)))
        except BaseException as error:
            sender.send((f"{type(error).__name__}: {error}", None))
        os._exit(0)

    process = context.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0, f"the process died of it, or took too long: {process.exitcode}"
    failure, message = receiver.recv()
    assert not failure, failure
    assert message is None or "memory" not in message.lower(), message
    return message
