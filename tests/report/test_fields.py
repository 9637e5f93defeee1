"""Squares are counted as numpy counts them, maps show them, and fields show the cells that lie in them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celldetr.cells.reader import open_table
from celldetr.report.density import EMPTY, count_squares, density_maps
from celldetr.report.fields import SIDE_UM, show_fields
from helpers.cell_tables import TYPES, ArraySlide, random_cells, random_embeddings, write_run


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))


@pytest.fixture
def table_path(tmp_path: Path) -> Path:
    cells = random_cells(400, size=(1600, 1200))
    return write_run(tmp_path / "s", cells, random_embeddings(cells), row_group=70)


def test_squares_hold_what_a_histogram_holds(table_path: Path) -> None:
    table = open_table(table_path)
    frame = table.frame(["x_um", "y_um", "type"])
    width, height = float(frame["x_um"].max()) + 1, float(frame["y_um"].max()) + 1
    counts = count_squares(table, width, height, 100.0)
    edges = [np.arange(side + 1) * 100.0 for side in counts.shape[1:]]
    for i, name in enumerate(TYPES):
        of_type = frame[frame["type"] == name]
        expected = np.histogram2d(of_type["y_um"], of_type["x_um"], edges)[0]
        assert np.array_equal(counts[i], expected)
    maps = density_maps(table, width, height)
    shown = decoded(maps.maps[0].picture)
    counts = count_squares(table, width, height, maps.side_um)
    zoom = shown.shape[0] // counts.shape[1]
    squares = shown[zoom // 2 :: zoom, zoom // 2 :: zoom]
    assert np.array_equal((squares == EMPTY).all(-1), counts.sum(0) == 0)
    brightest = squares.astype(int).sum(-1)[counts.sum(0) > 0]
    assert np.corrcoef(brightest, counts[0][counts.sum(0) > 0])[0, 1] > 0.8


def test_the_densest_field_is_shown_with_its_cells(table_path: Path) -> None:
    table = open_table(table_path)
    slide = ArraySlide(np.full((1200, 1600, 3), (240, 210, 225), dtype=np.uint8))
    mpp_x, mpp_y = table.mpp_xy
    counts = count_squares(table, slide.width * mpp_x, slide.height * mpp_y, SIDE_UM).sum(0)
    densest, median = show_fields(table, slide)
    assert densest.cells == counts.max() > median.cells > 0
    drawn, plain = decoded(densest.drawn).astype(int), decoded(densest.plain).astype(int)
    changed = np.abs(drawn - plain).max(-1) > 60
    assert 0.005 < changed.mean() < 0.5
    # Around the middle of each cell there is nothing, at its border a line.
    x, y = (table.read([f"{axis}_px"])[f"{axis}_px"].to_numpy() for axis in "xy")
    column = ((x - densest.x_px) * mpp_x / SIDE_UM * plain.shape[1]).astype(int)
    row = ((y - densest.y_px) * mpp_y / SIDE_UM * plain.shape[0]).astype(int)
    inside = (column >= 0) & (column < plain.shape[1]) & (row >= 0) & (row < plain.shape[0])
    assert inside.sum() == densest.cells
    assert changed[row[inside], column[inside]].mean() < changed.mean() + 0.1
