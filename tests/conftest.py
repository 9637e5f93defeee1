"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Directory of the development data sets; tests that need them skip where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("the development data sets are not on this machine")
    return SHARED
