"""What is on record of steps: what is kept, what runs again, what is stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from celldetr.errors import InputError
from celldetr.spatial.record import RECORD_FILE, STEPS, Record, open_record, stamp


class Work:
    """A step that writes a file and counts its runs."""

    def __init__(self, record: Record) -> None:
        self.record, self.ran = record, list[str]()

    def __call__(self, name: str, settings: dict[str, Any] | None = None, *, keep: bool = True) -> bool:
        out = self.record.files / f"{name}.txt"

        def work() -> dict[str, Any]:
            self.ran.append(name)
            out.write_text(name)
            return {"cells": len(self.ran)}

        return self.record.run(name, settings or {}, (out,), work, keep=keep)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(Record(tmp_path))


def test_a_finished_step_is_kept_also_by_another_process(work: Work, tmp_path: Path) -> None:
    assert work("read", {"bundle": "a"})
    again = Work(open_record(tmp_path))
    assert not again("read", {"bundle": "a"})
    assert again.ran == []
    assert again.record.steps["read"].facts == {"cells": 1}


def test_a_step_runs_again_when_settings_or_files_are_not_what_they_were(work: Work) -> None:
    work("read", {"bundle": "a"})
    assert work("read", {"bundle": "b"})
    (work.record.files / "read.txt").unlink()
    assert work("read", {"bundle": "b"})
    assert not work("read", {"bundle": "b"})
    assert work("read", {"bundle": "b"}, keep=False)


def test_steps_after_a_changed_one_are_stale_and_run_again(work: Work) -> None:
    for name in STEPS:
        work(name)
    work("qc", {"min_counts": 5})
    assert [name for name in STEPS if work.record.stale(name)] == ["type", "align", "write"]
    with pytest.raises(InputError, match="'type' stands on steps that were run again since"):
        work("write")
    work.ran.clear()
    for name in STEPS:
        work(name, work.record.settings(name))
    assert work.ran == ["type", "align", "write"]


def test_a_step_that_fails_leaves_no_record_of_an_earlier_result(work: Work, tmp_path: Path) -> None:
    work("read")

    def broken() -> dict[str, Any]:
        raise InputError("no")

    with pytest.raises(InputError, match=r"^no$"):
        work.record.run("read", {"new": 1}, (), broken)
    assert open_record(tmp_path).steps == {}


def test_what_a_step_stands_on_must_be_there(work: Work) -> None:
    with pytest.raises(InputError, match="step 'read' was not run yet; run celldetr spatial read first"):
        work("qc")


@pytest.mark.parametrize("content", ["{}", "[]", '{"format": "celldetr-spatial", "version": 1, "steps": {"read": 1}}'])
def test_another_file_of_that_name_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD_FILE).write_text(content)
    with pytest.raises(InputError, match="not written by celldetr spatial"):
        open_record(tmp_path)


def test_a_step_of_a_later_version_is_refused(work: Work, tmp_path: Path) -> None:
    work("read")
    path = tmp_path / RECORD_FILE
    values = json.loads(path.read_text())
    values["steps"]["polish"] = values["steps"]["read"]
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="a step 'polish' that this version does not know"):
        open_record(tmp_path)


def test_a_stamp_changes_with_content_and_with_files_of_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("1")
    seen = [stamp(file), stamp(tmp_path)]
    assert seen == [stamp(file), stamp(tmp_path)]
    file.write_text("12")
    (tmp_path / "b.csv").write_text("2")
    assert stamp(file) != seen[0]
    assert stamp(tmp_path) != seen[1]
    assert stamp(None) is None
