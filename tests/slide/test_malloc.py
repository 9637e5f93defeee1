"""Freed memory goes back to the system where the C library can, and nothing happens elsewhere."""

from __future__ import annotations

import sys

import pytest

from celldetr.slide import malloc


class Library:
    """Records what is called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[int, ...]]] = []

    def mallopt(self, *arguments: int) -> None:
        self.calls.append(("mallopt", arguments))

    def malloc_trim(self, *arguments: int) -> None:
        self.calls.append(("malloc_trim", arguments))


def test_what_the_library_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(malloc, "_libc", lambda: library)
    malloc.share_heaps()
    malloc.release()
    assert library.calls == [("mallopt", (malloc.M_ARENA_MAX, malloc.ARENAS)), ("malloc_trim", (0,))]


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    malloc._libc.cache_clear()
    assert malloc._libc() is None
    malloc.share_heaps()
    malloc.release()
    malloc._libc.cache_clear()
