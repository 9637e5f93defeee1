"""What oneDNN keeps is bounded, unless the user has said otherwise."""

from __future__ import annotations

import os

import pytest

from celldetr.model.cpu_caches import ENTRIES, VARIABLES, limit_caches


def test_the_users_word_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = VARIABLES
    monkeypatch.setenv(first, "7")
    monkeypatch.setenv(second, "x")  # so that it is restored
    monkeypatch.delenv(second)
    limit_caches()
    assert (os.environ[first], os.environ[second]) == ("7", str(ENTRIES))
