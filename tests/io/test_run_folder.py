"""The output folder of a run: begun, resumed, overwritten, finished; and what is never touched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celldetr.errors import InputError
from celldetr.io.lock import LOCK
from celldetr.io.run_folder import Layout, RunFolder, differences

LAYOUT = Layout(
    "run.json",
    outputs=("table.csv", "steps/*.txt", "steps/*/", "steps/", "store.zarr/"),
    working=("parts/*.txt", "parts/"),
    results=("table.csv",),
)
REQUEST = {"version": 1, "options": {"tile": 512, "batch_size": 4}}


def folder(path: Path, **changes: Any) -> RunFolder:
    return RunFolder(path, LAYOUT, REQUEST | changes, ignore=("options.batch_size",))


def finish(path: Path, **modes: bool) -> None:
    run = folder(path)
    with run.open(**modes):
        run.begin(started="today")
        (path / "parts").mkdir(exist_ok=True)
        (path / "parts/1.txt").write_text("1")
        (path / "table.csv").write_text("cells")
        run.finish(cells=3)


def recorded(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((path / "run.json").read_text())
    return values


def names(path: Path) -> list[str]:
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))


def test_a_finished_run_leaves_its_results_and_says_so_last(tmp_path: Path) -> None:
    out = tmp_path / "deep/out"
    finish(out)
    assert names(out) == ["run.json", "table.csv"]
    assert recorded(out) == {"status": "complete", **REQUEST, "started": "today", "cells": 3}
    with folder(out).open(resume=True) as again:
        assert again.is_finished
    assert recorded(out)["status"] == "complete"


def test_a_finished_run_is_kept_or_replaced_only_when_asked(tmp_path: Path) -> None:
    finish(tmp_path)
    with pytest.raises(InputError, match=r"holds a finished run; pass `overwrite=True` .* `resume=True` to keep"):
        finish(tmp_path)
    with pytest.raises(InputError, match="contradict"):
        finish(tmp_path, resume=True, overwrite=True)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/notes.md").write_text("mine")
    (tmp_path / "steps/old.txt").write_text("the run's")
    for store, file in (("store.zarr", "zarr.json"), ("store.zarr.tmp", "half")):
        (tmp_path / store).mkdir()
        (tmp_path / store / file).write_text("{}")
    finish(tmp_path, overwrite=True)
    assert names(tmp_path) == ["notes.txt", "run.json", "steps", "steps/notes.md", "table.csv"]


def test_without_its_result_a_run_is_not_finished(tmp_path: Path) -> None:
    finish(tmp_path)
    (tmp_path / "table.csv").unlink()
    with pytest.raises(InputError, match=r"holds an unfinished run; .* `resume=True` to continue"):
        folder(tmp_path).check()
    with folder(tmp_path).open(resume=True) as run:
        assert not run.is_finished


@pytest.mark.parametrize(("error", "status"), [(ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_what_ends_a_run_early_is_on_record(tmp_path: Path, error: BaseException, status: str) -> None:
    def work() -> None:
        with folder(tmp_path).open() as run:
            run.begin()
            (tmp_path / "parts").mkdir()
            (tmp_path / "parts/1.txt").write_text("1")
            (tmp_path / "table.csv.tmp").write_text("half")
            raise error

    with pytest.raises(type(error)):
        work()
    assert recorded(tmp_path)["status"] == status
    assert recorded(tmp_path)["error"] in ("no", "KeyboardInterrupt")
    with folder(tmp_path).open(resume=True) as run:
        assert names(tmp_path) == [LOCK, "parts", "parts/1.txt", "run.json"]  # what was half written is gone
        assert run.record["status"] == status
    with folder(tmp_path, version=1).open(overwrite=True) as run:
        assert run.record == {}
    assert names(tmp_path) == []


def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; import test_run_folder as t\n"
        "with t.folder(Path(sys.argv[1])).open() as run:\n"
        "    run.begin(); Path(sys.argv[1], 'table.csv.tmp').touch(); print('begun', flush=True); time.sleep(600)"
    )
    here = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=here
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(InputError, match=f"in use by another run .process {process.pid}"):
            finish(tmp_path, resume=True)
        process.kill()
    assert recorded(tmp_path)["status"] == "running"
    finish(tmp_path, resume=True)
    assert names(tmp_path) == ["run.json", "table.csv"]


def test_nothing_is_left_of_a_run_that_never_began_or_is_discarded(tmp_path: Path) -> None:
    def work(begun: bool) -> None:
        with folder(tmp_path / "new").open() as run:
            if begun:
                run.begin()
                (run.path / "table.csv").touch()
                run.discard()
            raise ValueError("wrong")

    for begun in (False, True):
        with pytest.raises(ValueError, match="wrong"):
            work(begun)
        assert names(tmp_path) == []


def test_another_request_is_not_resumed(tmp_path: Path) -> None:
    finish(tmp_path)
    folder(tmp_path, options={"tile": 512, "batch_size": 1}).check(resume=True)
    with pytest.raises(
        InputError,
        match=r"cannot be resumed, the run there differs \(version: 1, now 2; options.tile: 512, now 256\); pass",
    ):
        folder(tmp_path, version=2, options={"tile": 256, "batch_size": 4}).check(resume=True)
    folder(tmp_path, version=2).check(overwrite=True)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="`overwrite=True`"):
        folder(tmp_path).check(resume=True)


@pytest.mark.parametrize("modes", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_of_other_files_is_refused(tmp_path: Path, modes: dict[str, bool]) -> None:
    (tmp_path / "table.csv").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files than those of the run \(there is no run.json\)"):
        finish(tmp_path, **modes)
    assert names(tmp_path) == ["table.csv"]
    file = tmp_path / "table.csv"
    with pytest.raises(InputError, match="is a file"):
        finish(file, **modes)


def test_a_shared_folder_keeps_the_files_that_were_there(tmp_path: Path) -> None:
    layout = Layout("run.json", outputs=("table.csv", "picture.png"), results=("table.csv",), shared=True)
    (tmp_path / "picture.png").write_text("mine")
    with RunFolder(tmp_path, layout).open(overwrite=True) as run:
        run.begin()
        run.discard()
    assert names(tmp_path) == ["picture.png"]
    (tmp_path / "table.csv").write_text("of a run whose record is lost")
    for modes, message in (({}, "holds an unfinished run"), ({"resume": True}, "has no run.json")):
        with pytest.raises(InputError, match=message):
            RunFolder(tmp_path, layout).check(**modes)
    RunFolder(tmp_path, layout).check(overwrite=True)


def run_step(run: RunFolder, name: str, setting: int, after: tuple[str, ...] = ()) -> bool:
    step = run.step(name, {"setting": setting}, (f"steps/{name}.txt",), after)
    if not step.is_done:
        (run.path / "steps").mkdir(exist_ok=True)
        with step as facts:
            (run.path / f"steps/{name}.txt").write_text(str(setting))
            facts["answer"] = setting
        assert step.is_done
        return True
    assert step.facts == {"answer": setting}
    return False


def test_steps_run_again_when_settings_files_or_steps_before_change(tmp_path: Path) -> None:
    def go(**modes: bool) -> list[bool]:
        with folder(tmp_path).open(**modes) as run:
            run.begin()
            return [run_step(run, "read", 1), run_step(run, "qc", 2, ("read",)), run_step(run, "type", 3, ("qc",))]

    assert go() == [True, True, True]
    assert recorded(tmp_path)["status"] == "incomplete"
    assert go(resume=True) == [False, False, False]
    (tmp_path / "steps/qc.txt").unlink()
    assert go(resume=True) == [False, True, False]  # made again with the same settings: what follows is the same
    with folder(tmp_path).open(resume=True) as run:
        run.begin()
        assert run_step(run, "qc", 20, ("read",))
        assert run.is_stale("type")
        with pytest.raises(InputError, match="step 'type' is out of date; run it first"):
            run.step("write", {}, after=("type",))
        with pytest.raises(InputError, match="step 'align' was not run yet; run it first"):
            run.step("write", {}, after=("align",))
    assert go(resume=True) == [False, True, False]  # as it was when step 'type' ran
    assert go(overwrite=True) == [True, True, True]


def test_a_step_that_fails_is_not_done(tmp_path: Path) -> None:
    def fail() -> None:
        with folder(tmp_path).open(resume=True) as run, run.step("read", {"setting": 2}):
            raise ValueError("wrong")

    with folder(tmp_path).open() as run:
        run.begin()
        assert run_step(run, "read", 1)
    with pytest.raises(ValueError, match="wrong"):
        fail()
    assert recorded(tmp_path)["steps"] == {}
    with folder(tmp_path).open(resume=True) as run:
        run.begin()
        assert [run.step("read", {"setting": setting}).is_begun for setting in (1, 2)] == [False, True]
        assert run_step(run, "read", 2)
        assert not run.step("read", {"setting": 2}).is_begun


def test_differences_name_the_keys() -> None:
    assert differences({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3}, "e": None}) == [
        "a.c: 2, now 3",
        "d: [1], now None",
    ]
    (text,) = differences({"roi": "x" * 1000}, {"roi": "y" * 1000})
    assert len(text) < 200
    assert "hash" in text
