"""The lock of an output directory: one holder at a time, however many try, and none that is dead."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from celldetr.errors import InputError
from celldetr.io import lock as lock_module
from celldetr.io.lock import LOCK, RunLock
from helpers import children, lock_race

RACERS, ROUNDS = 8, 40
GONE = 2**22 + 1  # more than Linux numbers processes
pytestmark = pytest.mark.skipif(os.name != "posix", reason="without flock every lock file stands")


def left_behind(directory: Path, **changes: Any) -> Path:
    """The lock file of a process of this machine that is gone."""
    directory.mkdir(exist_ok=True)
    values = {"host": platform.node(), "boot": lock_module._boot_id(), "pid": GONE, "since": "2025-01-01T00:00:00"}
    (directory / LOCK).write_text(json.dumps(values | changes))
    return directory


def is_held(directory: Path) -> bool:
    said = ""
    try:
        with RunLock(directory):
            pass
    except InputError as error:
        said = str(error)
    assert not said or ("in use by another run (process" in said and str(directory / LOCK) in said)
    return bool(said)


@pytest.mark.slow
def test_of_many_that_try_at_once_one_succeeds(tmp_path: Path) -> None:
    for turn in range(ROUNDS):
        (tmp_path / str(turn)).mkdir()
        if turn % 2:
            left_behind(tmp_path / str(turn))
    context = children.context()
    start, end, results = context.Barrier(RACERS), context.Barrier(RACERS), context.SimpleQueue()
    racers = [
        context.Process(target=lock_race.race, args=(tmp_path, ROUNDS, start, end, results)) for _ in range(RACERS)
    ]
    for racer in racers:
        racer.start()
    outcomes = [results.get() for _ in range(RACERS * ROUNDS)]
    for racer in racers:
        racer.join()
    assert [sum(won for turn, won in outcomes if turn == t) for t in range(ROUNDS)] == [1] * ROUNDS
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("flock", [True, False])
def test_a_held_lock_is_held_and_leaves_nothing(tmp_path: Path, flock: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not flock:
        monkeypatch.setattr(lock_module, "_flock", lambda file: None)
    with RunLock(tmp_path):
        assert is_held(tmp_path)
        assert is_held(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert list(tmp_path.iterdir()) == []
    assert not is_held(tmp_path)


@pytest.mark.parametrize("holder", [{}, {"boot": None}, {"boot": "before this machine was restarted"}])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, holder: dict[str, Any]) -> None:
    assert not is_held(left_behind(tmp_path, **holder))


def test_the_lock_of_a_dead_container_is_known_by_its_kernel(tmp_path: Path) -> None:
    if lock_module._boot_id() is None:
        pytest.skip("this system does not name its kernel")
    assert not is_held(left_behind(tmp_path, host="a container"))


def test_what_a_process_left_that_died_while_writing_is_taken_over(tmp_path: Path) -> None:
    for content in ("", '{"host": "a', "[]"):
        (tmp_path / LOCK).write_text(content)
        assert not is_held(tmp_path)


@pytest.mark.parametrize("boot", ["another", None])
def test_the_lock_of_another_machine_stands(tmp_path: Path, boot: str | None) -> None:
    left_behind(tmp_path, host="elsewhere", boot=boot)
    with pytest.raises(
        InputError, match=rf"process {GONE} on elsewhere since 2025-01-01T00:00:00\); .* delete .*\.lock"
    ):
        RunLock(tmp_path).__enter__()
    assert (tmp_path / LOCK).exists()


def test_without_flock_every_lock_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "_flock", lambda file: None)
    assert is_held(left_behind(tmp_path))


def test_the_lock_of_a_killed_process_is_taken_over_and_not_before(tmp_path: Path) -> None:
    """Also if it has forked children that live on, as the workers of a DataLoader do for some seconds."""
    code = (
        "import os, sys, time; from pathlib import Path; from celldetr.io.lock import RunLock\n"
        "RunLock(Path(sys.argv[1])).__enter__()\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert is_held(tmp_path)
        process.kill()
        process.wait()
        time.sleep(0.1)
        assert not is_held(tmp_path)
        os.kill(child, 9)


def test_a_lock_that_the_disk_has_no_room_for_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock_module, "_write_self", full)
    with pytest.raises(InputError, match="disk is full"):
        RunLock(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []
