"""What readers have to say of a user's files reaches the terminal, once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from celldetr.recipes.own_data import own_sources
from corpus.scene import coco, points_twin, save, write_json
from helpers.cli import call


@pytest.mark.slow
def test_notes_of_readers_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points_twin(tmp_path / "data")
    shutil.copy(tmp_path / "data/labels/a.csv", tmp_path / "data/labels/other.csv")
    call("threshold", tmp_path / "data", "--mpp", 0.5, "--split", "all")
    said = capsys.readouterr().err
    assert said.count("note:") == 1
    assert "left out: 1 tables without an image of their name (other.csv)" in said


def test_roboflow_calls_validation_valid(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        save(tmp_path / name / "a.png")
        write_json(tmp_path / name / "_annotations.coco.json", coco())
    values = own_sources(tmp_path, 0.5)
    assert [Path(source["card"]).name for key in ("train", "validation") for source in values[key]] == [
        "train",
        "valid",
    ]
