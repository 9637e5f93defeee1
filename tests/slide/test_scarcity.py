"""A slide with tissue and hardly a cell is warned of; glass, and tissue with cells, are not."""

from __future__ import annotations

from pathlib import Path

import pytest

import celldetr
from celldetr.slide.provenance import scarcity_warnings
from helpers.sample_crop import MPP, crop, save, white


@pytest.mark.slow
def test_tissue_in_which_nothing_is_found_is_warned_of(tmp_path: Path) -> None:
    image = save(crop(950, 900, 360, 360), tmp_path / "tissue.png")
    blind = celldetr.load_model(device="cpu", threshold=1.0)
    summary = celldetr.predict_slide(image, tmp_path / "out", model=blind, mpp=MPP)
    assert summary.cells == 0
    assert [text for text in summary.warnings if "hardly a cell found: 0 on" in text]
    glass = celldetr.predict_slide(white(tmp_path / "white.png"), tmp_path / "out", model=blind, mpp=MPP)
    assert not [text for text in glass.warnings if "hardly a cell" in text]


@pytest.mark.parametrize(("cells", "mm2", "warned"), [(0, 0.02, False), (0, 1, True), (4, 1, True), (5, 1, False)])
def test_where_the_line_is(cells: int, mm2: float, warned: bool) -> None:
    assert bool(scarcity_warnings(cells, mm2)) == warned
