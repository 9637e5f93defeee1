"""celldetr check says of files what the commands would see, and exits 1 where something is doubtful."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celldetr.data.survey import survey, table
from corpus.scene import NUCLEI, coco_twin, pixels, points_twin, qupath_twin
from helpers.cli import call
from helpers.synthetic import draw, svs


def test_labels_in_order(tmp_path: Path) -> None:
    (finding,) = survey(qupath_twin(tmp_path), 0.5)
    assert (finding.kind, finding.notes, finding.refusal) == ("labels", [], "")
    immune = sum(n.kind == "immune" for n in NUCLEI)
    median = np.median([np.sqrt(4 * n.a * n.b) for n in NUCLEI]) * 0.5
    assert finding.facts == {
        "format": "qupath_geojson",
        "images": "1",
        "size": "240 x 160 px",
        "mpp": "0.5",
        "nuclei": f"{len(NUCLEI)}",
        "median size": f"{median:.1f} um",
        "types": f"tumour {len(NUCLEI) - immune}, immune {immune}",
    }
    assert table(finding)[0] == f"{tmp_path}: labels"


def test_a_slide_and_a_folder_of_slides(tmp_path: Path) -> None:
    image, _ = draw(0.5, 0.5)
    svs(tmp_path / "a", image, 0.5, 0.5)
    (finding,) = survey(tmp_path / "a.svs")
    assert finding.facts["mpp"].startswith("0.5 (")
    assert finding.facts["levels"] == "2 (reductions 1, 4)"
    (tmp_path / "b.kfb").touch()
    folder, slide = survey(tmp_path)
    assert (folder.facts, folder.is_doubtful, slide.facts) == ({"slides": "1"}, True, finding.facts)
    assert ".kfb" in folder.notes[0]


def test_what_is_doubtful_decides_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "labels.png"
    points_twin(tmp_path / "points")
    assert call("check", tmp_path / "points", "--mpp", 0.5, "--picture", picture) == 0
    assert f"look at it: {picture}" in capsys.readouterr().out
    drawn = np.asarray(Image.open(picture))
    assert drawn.shape[1] >= pixels().shape[1]
    shutil.copy(tmp_path / "points/labels/a.csv", tmp_path / "points/labels/other.csv")
    assert call("check", tmp_path / "points", "--mpp", 0.5) == 1
    assert "doubtful: " in capsys.readouterr().out
    assert call("check", coco_twin(tmp_path / "coco"), "--mpp", 4) == 1
    assert "refused: " in capsys.readouterr().out
