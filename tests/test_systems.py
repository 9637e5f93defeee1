"""What differs between operating systems, imitated on this one: locks, forks, signals, files, code pages.

Workers that cannot be forked: tests/training/test_processes.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from celldetr.cli.interrupt import stoppable
from celldetr.errors import InputError
from celldetr.io import files
from celldetr.io.lock import LOCK, RunLock
from celldetr.model.device import guard_forks
from celldetr.slide.pipeline import usable_threads


def test_without_flock_a_lock_file_stands_until_it_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with RunLock(tmp_path), pytest.raises(InputError, match=r"in use by another run .* or delete"), RunLock(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()
    (tmp_path / LOCK).write_text("{}")  # of a process that was killed
    with pytest.raises(InputError, match="in use by another run"), RunLock(tmp_path):
        pass


def test_without_fork_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork")
    guard_forks.__wrapped__()


def test_a_system_that_cannot_flush_a_directory_writes_files_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = os.open

    def refuse_directories(path: Any, *options: Any, **more: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        return ours(path, *options, **more)

    monkeypatch.setattr(os, "open", refuse_directories)
    files.write_json(tmp_path / "a.json", {"a": 1})
    assert files.read_json(tmp_path / "a.json") == {"a": 1}


def test_a_file_that_another_program_holds_open_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows replaces no open file."""
    target = tmp_path / "cells.parquet"
    target.write_bytes(b"old")

    def refuse(self: Path, other: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(InputError, match=r"cells\.parquet: cannot be written"), files.replacing(target) as path:
        path.write_bytes(b"new")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("cells.parquet", b"old")]


def test_threads_are_counted_where_a_process_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_threads() == 1


def test_an_interruption_outside_the_main_thread_is_left_to_that() -> None:
    """Servers and notebooks call us from threads of their own, which may not say what a signal does."""
    seen: list[BaseException | str] = []

    def work() -> None:
        try:
            with stoppable():
                seen.append("ran")
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["ran"]


@pytest.mark.parametrize("code_page", ["ascii", "cp1252"])
def test_a_pipe_of_a_narrow_code_page_gets_question_marks(code_page: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": code_page}
    said = subprocess.run(
        [sys.executable, "-m", "celldetr", "models"], env=environment, capture_output=True, check=False
    )
    assert said.returncode == 0, said.stderr.decode(code_page)
    assert "small-20x" in said.stdout.decode(code_page)
