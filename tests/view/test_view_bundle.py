"""The committed page is what its sources make: rebuilt where Node and the packages are."""

from __future__ import annotations

import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

VIEW = Path(__file__).parents[2] / "view"
NODE = shutil.which("node")


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason="no Node on the PATH")
def test_the_bundle_is_that_of_the_sources(tmp_path: Path) -> None:
    if not (VIEW / "node_modules" / "esbuild").is_dir():
        npm = shutil.which("npm")
        work = tmp_path / "view"
        shutil.copytree(VIEW, work, ignore=shutil.ignore_patterns("node_modules"))
        install = [npm or "npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
        installed = subprocess.run(install, cwd=work, capture_output=True, text=True, timeout=300)
        if installed.returncode:
            pytest.skip(f"npm cannot install esbuild here: {installed.stderr.strip().splitlines()[-1:]}")
    else:
        work = VIEW
    subprocess.run([str(NODE), "build.mjs", tmp_path / "built"], cwd=work, check=True, timeout=300)
    for built in (tmp_path / "built").iterdir():
        committed = (files("celldetr.view") / "static" / built.name).read_bytes()
        assert built.read_bytes() == committed, f"{built.name}: run make view, and commit what it writes"
