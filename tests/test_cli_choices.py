"""Commands say what would have been accepted, and a threshold that is given is the one that counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.cli import call
from helpers.sample_crop import MPP, crop, default_model, save


def labels(folder: Path) -> Path:
    """A folder with the cells that the default model finds as labels."""
    folder.mkdir()
    save(crop(), folder / "one.png")
    cells = default_model().predict(crop(), mpp=MPP)
    lines = [f"{x},{y},{name}" for x, y, name in cells[["x_px", "y_px", "type"]].itertuples(index=False)]
    (folder / "one.csv").write_text("x,y,class\n" + "\n".join(lines) + "\n")
    return folder


def test_a_threshold_that_is_given_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, high = tmp_path / "m.json", 0.6
    arguments = ["evaluate", labels(tmp_path / "labels"), "--split", "all", "--mpp", MPP, "--device", "cpu", "-q"]
    arguments += ["--precision", "32"]
    assert call(*arguments, "-o", out, "--threshold", high) == 0
    metrics = json.loads(out.read_text())
    expected = int((default_model().predict(crop(), mpp=MPP)["score"] >= high).sum())
    assert metrics["threshold"] == metrics["context"]["model"]["threshold"] == high
    # Cells down to a low score are looked for, which takes more queries: a score at the line may cross it.
    assert metrics["n_predicted"] == pytest.approx(expected, abs=3)
    assert metrics["detection"]["tp"] > 0.9 * metrics["n_predicted"]
    assert 3 < expected < metrics["n_cells"] - 3
    assert min(metrics["curve"]["thresholds"]) < default_model().threshold  # the curve goes on below it
    capsys.readouterr()
    assert call(*arguments, "-o", tmp_path / "n.json", "--threshold", 1.5) == 2
    assert "--threshold: Input should be less than or equal to 1, got 1.5" in capsys.readouterr().err


def test_devices_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = save(crop(), tmp_path / "one.png")
    assert call("predict", image, "-o", tmp_path / "out", "--mpp", MPP, "--device", "gpu") == 2
    assert "device 'gpu' is not available here; there are 'auto', " in (said := capsys.readouterr().err)
    assert "'cpu'" in said


def test_results_need_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, out = save(crop(), tmp_path / "one.png"), tmp_path / "out"
    out.write_text("mine")
    assert call("predict", image, "-o", out, "--mpp", MPP) == 2
    assert "is a file; --out must be a folder" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_labels_without_a_resolution_need_mpp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    save(crop(), tmp_path / "data" / "one.png")
    (tmp_path / "data" / "one.csv").write_text("x,y,class\n30,40,a\n80,60,a\n90,99,b\n50,99,b\n")
    assert call("train", "finetune", "--data", tmp_path / "data", "-o", tmp_path / "run", "-q", "--device", "cpu") == 2
    assert "pass --mpp 0.5, say" in capsys.readouterr().err


def test_a_folder_of_labels_is_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", "nosuch", "-o", tmp_path / "m.json", "--device", "cpu") == 2
    said = capsys.readouterr().err
    assert "no dataset card 'nosuch'" in said
    assert "a folder of labels" in said


def test_rows_of_a_probe_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "probe"
    assert call("probe", "small-20x", "consep", "--against", "crop", "-o", out, "--device", "cpu", "-q") == 2
    said = capsys.readouterr().err
    for row in ("crops", "crops-N", "handmade", "random", "imagenet", "small-20x"):
        assert row in said
