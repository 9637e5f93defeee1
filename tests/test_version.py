"""The version names the commit of a clone, whether it was changed, and asks git for nothing elsewhere."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import celldetr
from celldetr import version


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_clone_is_named_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "src" / "celldetr" / "version.py"
    module.parent.mkdir(parents=True)
    module.touch()
    monkeypatch.setattr(version, "__file__", str(module))
    assert version.describe() == celldetr.__version__  # no clone

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        command = ["git", *who, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "pyproject.toml").write_text("[project]\n")
    git("init")
    assert version.describe() == celldetr.__version__  # a clone without a commit
    git("add", "-A")
    git("commit", "-m", "first")
    commit = git("rev-parse", "--short=8", "HEAD")
    assert version.describe() == f"{celldetr.__version__} (git {commit})"
    (tmp_path / "new.txt").touch()
    assert version.describe() == f"{celldetr.__version__} (git {commit})"  # a file of one's own is no change
    module.write_text("changed = True\n")
    assert version.describe() == f"{celldetr.__version__} (git {commit}, changed)"
