"""The lock of an output directory: one holder at a time, however many try, and none that is dead."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celldetr.errors import InputError
from celldetr.io import lock as lock_module
from celldetr.io.lock import LOCK, TAKEOVER, RunLock, boot_id, process_start
from helpers import children, lock_race

RACERS, ROUNDS = 8, 40
posix = pytest.mark.skipif(os.name != "posix", reason="whether a process is gone is asked the POSIX way")
GONE = 2**22 + 1  # more than Linux numbers processes


def left_behind(directory: Path, **changes: Any) -> Path:
    """The lock file of a process of this machine that is gone."""
    directory.mkdir(exist_ok=True)
    values = {"host": platform.node(), "boot": boot_id(), "pid": GONE, "started": "1", "flock": True}
    (directory / LOCK).write_text(json.dumps(values | changes))
    return directory


@posix
@pytest.mark.parametrize("flock", [True, False])
def test_of_many_that_try_at_once_one_succeeds(tmp_path: Path, flock: bool) -> None:
    for turn in range(ROUNDS):
        (tmp_path / str(turn)).mkdir()
        if turn % 2:
            left_behind(tmp_path / str(turn), flock=flock)
    context = children.context()
    start, end, results = context.Barrier(RACERS), context.Barrier(RACERS), context.SimpleQueue()
    arguments = (tmp_path, ROUNDS, start, end, flock, results)
    racers = [context.Process(target=lock_race.race, args=arguments) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    outcomes = [results.get() for _ in range(RACERS * ROUNDS)]
    for racer in racers:
        racer.join()
    assert [sum(won for turn, won in outcomes if turn == t) for t in range(ROUNDS)] == [1] * ROUNDS
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def held(directory: Path) -> bool:
    said = ""
    try:
        with RunLock(directory):
            pass
    except InputError as error:
        said = str(error)
    assert not said or ("in use by another run (process" in said and str(directory / LOCK) in said)
    return bool(said)


def test_without_flock_no_file_is_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows deletes no file that is open."""
    opened: list[int] = []
    original, close = os.open, os.close
    monkeypatch.setattr(lock_module, "_flock", lambda file: None)
    monkeypatch.setattr(os, "open", lambda *args: opened.append(original(*args)) or opened[-1])
    monkeypatch.setattr(os, "close", lambda file: (opened.remove(file), close(file)))
    unlink = Path.unlink

    def strict(self: Path, missing_ok: bool = False) -> None:
        assert not opened, f"{self} is deleted while {opened} are open"
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", strict)
    with RunLock(tmp_path), pytest.raises(InputError, match="in use by another run"), RunLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flock", [True, False])
def test_a_held_lock_is_held_and_leaves_nothing(tmp_path: Path, flock: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not flock:
        monkeypatch.setattr(lock_module, "_flock", lambda file: None)
    with RunLock(tmp_path):
        assert held(tmp_path)
        assert held(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert list(tmp_path.iterdir()) == []
    assert not held(tmp_path)


@posix
@pytest.mark.parametrize(
    "holder",
    [
        {},
        {"flock": False},
        {"boot": None},
        {"boot": None, "flock": False},
        {"boot": "before this machine was started anew"},
        {"flock": False, "pid": os.getpid(), "started": "1"},  # the number was given to another process
    ],
)
def test_what_a_dead_process_left_is_taken_over(tmp_path: Path, holder: dict[str, Any]) -> None:
    if holder.get("started") and process_start(os.getpid()) is None:
        pytest.skip("this system does not say when a process started")
    assert not held(left_behind(tmp_path, **holder))


def test_what_a_process_left_that_died_while_writing_is_taken_over(tmp_path: Path) -> None:
    for content in ("", '{"host": "a', "[]"):
        (tmp_path / LOCK).write_text(content)
        assert not held(tmp_path)


@pytest.mark.parametrize(
    "holder",
    [
        {"host": "elsewhere", "boot": "another"},  # nobody can ask there
        {"host": "elsewhere", "boot": None},
        {"flock": False, "pid": os.getpid(), "started": process_start(os.getpid())},
        {"flock": False, "pid": "one"},
        {"flock": False, "host": "a container of this machine", "pid": GONE},  # its processes have numbers of their own
    ],
)
def test_what_may_be_held_stands(tmp_path: Path, holder: dict[str, Any]) -> None:
    if holder.get("boot", "") == "another" and boot_id() is None:
        pytest.skip("this system does not name its kernel")
    assert held(left_behind(tmp_path, **holder))
    assert (tmp_path / LOCK).exists()


@posix
def test_a_container_of_this_machine_that_is_gone_is_known_by_its_kernel(tmp_path: Path) -> None:
    if boot_id() is None:
        pytest.skip("this system does not name its kernel")
    assert not held(left_behind(tmp_path, host="a container"))


@posix
@pytest.mark.parametrize("flock", [True, False])
def test_the_lock_of_a_killed_process_is_taken_over_and_not_before(tmp_path: Path, flock: bool) -> None:
    patch = "" if flock else "lock._flock = lambda file: None;"
    code = (
        f"import sys, time; from pathlib import Path; from celldetr.io import lock; {patch}"
        "lock.RunLock(Path(sys.argv[1])).__enter__(); print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert held(tmp_path)
        process.kill()
    assert not held(tmp_path)


@posix
def test_who_died_taking_over_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "_flock", lambda file: None)
    left_behind(tmp_path, flock=False)
    (tmp_path / TAKEOVER).write_text("{}")
    with pytest.raises(InputError, match=rf"delete .*{LOCK} and .*{TAKEOVER}"), RunLock(tmp_path):
        pass


@posix
@pytest.mark.parametrize("flock", [True, False])
def test_two_that_judge_the_same_lock_dead_do_not_both_get_it(
    tmp_path: Path, flock: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not flock:
        monkeypatch.setattr(lock_module, "_flock", lambda file: None)
    left_behind(tmp_path, flock=flock)
    judged, inner = lock_module.is_gone, []

    def slowly(*arguments: Any, **options: Any) -> bool:
        verdict = judged(*arguments, **options)
        monkeypatch.setattr(lock_module, "is_gone", judged)
        lock = RunLock(tmp_path)  # another process, between our judgement and what we do about it
        try:
            inner.append((lock, lock.__enter__()))
        except InputError:
            inner.append(None)
        return verdict

    monkeypatch.setattr(lock_module, "is_gone", slowly)
    outer = not held(tmp_path)
    assert len(inner) == 1
    assert outer != (inner[0] is not None)
