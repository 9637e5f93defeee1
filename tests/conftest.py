"""Fixtures shared by all tests."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest


def keep_bytecode() -> None:
    """Where Python keeps none (PYTHONDONTWRITEBYTECODE), keep it for the time of the tests, in a folder of their own.

    Without it each process that a test starts compiles all of torch from its source, for ten seconds or more.
    """
    torch = importlib.util.find_spec("torch")
    if not sys.dont_write_bytecode or torch is None or not torch.origin:
        return
    if Path(importlib.util.cache_from_source(torch.origin)).is_file():
        return  # the installer has compiled everything
    folder = tempfile.mkdtemp(prefix="celldetr-bytecode-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sys.dont_write_bytecode, sys.pycache_prefix = False, folder
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = folder


def share_cores() -> None:
    """Give each of several workers, and what it starts, its part of the cores: threads that spin slow all of them."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


keep_bytecode()
share_cores()

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", params=["32", "bf16"])
def precision(request: pytest.FixtureRequest) -> str:
    """Both arithmetics, on every machine: where bfloat16 is emulated it is ten times slower, no less right.

    The tests of the network that use it also run as on a processor without AVX-512, see ``test_processors``.
    """
    return str(request.param)


@pytest.fixture(scope="session", params=["32", "bf16"])
def native_precision(request: pytest.FixtureRequest) -> str:
    """The arithmetics that this machine has: for whole images, which emulated bfloat16 would make minutes of.

    That the network is right in emulated bfloat16 is tested with ``precision``.
    """
    import torch

    from celldetr.model.device import has_bf16

    if request.param == "bf16" and not has_bf16(torch.device("cpu")):
        pytest.skip("bfloat16 is emulated here; the tests of the network run in it")
    return str(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # the longest files first, so that no worker ends with one alone
    for item in items:
        if "precision" in getattr(item, "fixturenames", ()):
            item.add_marker("precision")


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
        patch.setattr(sys, "argv", ["celldetr", "export", "small-20x", "--format", "onnx", "-o", str(path)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code == 0
    return path


@pytest.fixture(autouse=True)
def subnormal_numbers() -> None:
    """A shared library that was built with fast-math turns subnormal floats off for the process that loads it.

    Hypothesis refuses to draw floats then, in whatever test comes next in that process.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
