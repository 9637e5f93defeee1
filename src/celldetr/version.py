"""Which version this is: of the package, and of the clone that it is used from, if it is."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

SECONDS = 10.0  # what a slow disk may take


def describe() -> str:
    """``0.1.0``, or ``0.1.0 (git 1a2b3c4d, changed)`` in a clone; ``changed`` where tracked files differ from it."""
    package = version("celldetr")
    clone = Path(__file__).resolve().parents[2]
    if not (clone / ".git").exists() or not (clone / "pyproject.toml").is_file():
        return package
    commit = _git(clone, "rev-parse", "--short=8", "HEAD")
    if not commit:
        return package
    changed = ", changed" if _git(clone, "status", "--porcelain", "--untracked-files=no") else ""
    return f"{package} (git {commit}{changed})"


def _git(clone: Path, *arguments: str) -> str:
    """What git prints; nothing if it is not there, refuses, or takes too long."""
    command = ["git", "-C", str(clone), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
