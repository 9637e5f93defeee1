"""Freed memory goes back to the system where the C library can, and nothing happens elsewhere."""

from __future__ import annotations

import sys

import pytest

from celldetr.slide import malloc


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    malloc._libc.cache_clear()
    assert malloc._libc() is None
    malloc.share_heaps()
    malloc.release()
    malloc._libc.cache_clear()


def test_this_system_is_asked() -> None:
    malloc.share_heaps()
    malloc.release()
