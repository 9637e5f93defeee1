"""Slides of one colour, however small: no cells, and words that say what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celldetr.cells.reader import read_cells
from celldetr.cohort.predict import predict_slide
from celldetr.errors import InputError
from celldetr.slide.options import PredictOptions
from helpers.blobs import BlobModel

GLASS, WHITE, PINK, BLACK = (242, 240, 243), (255, 255, 255), (230, 180, 210), (0, 0, 0)


def a_slide(folder: Path, colour: tuple[int, int, int], side: int) -> Path:
    Image.fromarray(np.full((side, side + 3, 3), colour, np.uint8)).save(folder / "plain.png")
    return folder / "plain.png"


@pytest.mark.parametrize("side", [1, 7, 300])
@pytest.mark.parametrize(
    ("colour", "says"),
    [(GLASS, "no tissue was found"), (WHITE, "no tissue was found"), (PINK, ""), (BLACK, "the image is grey")],
)
def test_one_colour_has_no_cells(colour: tuple[int, int, int], says: str, side: int, tmp_path: Path) -> None:
    model = BlobModel()
    model.predict_tiles = lambda tiles, least_score=None: [model._find(np.full_like(t, PINK)) for t in tiles]  # type: ignore[method-assign]
    done = predict_slide(a_slide(tmp_path, colour, side), tmp_path / "out", model, PredictOptions(mpp=0.5))
    assert done.cells == len(read_cells(done.directory)) == 0
    assert (done.directory / "overview.png").is_file()
    said = "; ".join(done.warnings)
    if says:
        assert says in said
    elif side == 300:
        assert "hardly a cell found" in said
    else:
        assert said == ""


def test_results_in_a_link_to_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    slide = a_slide(tmp_path, PINK, 60)
    with pytest.raises(InputError, match=r"out: is a link to nothing \(.*gone\); make that folder"):
        predict_slide(slide, tmp_path / "out", BlobModel(), PredictOptions(mpp=0.5))
    (tmp_path / "gone").mkdir()
    assert predict_slide(slide, tmp_path / "out", BlobModel(), PredictOptions(mpp=0.5)).cells == 0
