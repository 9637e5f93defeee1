"""Fixtures shared by all tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Directory of the development data sets; tests that need them skip where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("the development data sets are not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def small_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model as an ONNX file, written by the command line."""
    from celldetr import cli

    path = tmp_path_factory.mktemp("onnx") / "new" / "small.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["celldetr", "export", "small-20x", "--to", "onnx", "-o", str(path)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code == 0
    return path
