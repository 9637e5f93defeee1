"""Freed memory goes back to the system where the C library can, and nothing happens elsewhere."""

from __future__ import annotations

import sys

import pytest

from celldetr.slide import heap


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
    monkeypatch.setattr(heap, "_libc", lambda: library)
    heap.share_heaps()
    heap.release()
    assert library.calls == [("mallopt", (heap.M_ARENA_MAX, heap.ARENAS)), ("malloc_trim", (0,))]


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    heap._libc.cache_clear()
    assert heap._libc() is None
    heap.share_heaps()
    heap.release()
    heap._libc.cache_clear()
