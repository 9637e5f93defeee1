"""The pictures of the alignment show what they are given, also where there is little."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shapely

from celldetr.slide.reader import from_array
from celldetr.spatial.alignment_plots import Positions, field_centres, overlay, pair_positions, residual_figure
from celldetr.spatial.pair import pair
from celldetr.spatial.section import Nuclei

MPP = 0.5
TO_IMAGE = np.diag([2.0, 2.0, 1.0])


def scene(count: int) -> tuple[np.ndarray, Nuclei, np.ndarray]:
    random = np.random.default_rng(0)
    cells = random.uniform(0, 200, (count, 2))
    low = cells * 2 - 8 + [3.0, 0.0]  # off by 1.5 um along x
    polygons = np.array([shapely.box(*corner, *(corner + 16)) for corner in low] or [None], dtype=object)[:count]
    boxes = np.hstack([low, low + 16]).astype(np.float32)
    return cells, Nuclei(boxes, np.ones(count, np.float32), polygons), np.full((400, 400, 3), 200, np.uint8)


def paired(cells: np.ndarray, nuclei: Nuclei) -> tuple[pd.DataFrame, Positions]:
    ids = np.array([f"c{k}" for k in range(len(cells))], dtype=object)
    table = pair(ids, cells, None, nuclei, TO_IMAGE, MPP)
    return table, pair_positions(table, ids)


def test_the_overlay_has_the_whole_and_fields() -> None:
    cells, nuclei, pixels = scene(300)
    _, positions = paired(cells, nuclei)
    figure = overlay(from_array(pixels, MPP), cells, nuclei, TO_IMAGE, positions)
    assert figure.axes[0].get_title() == "300 of 300 cells in the image"
    assert len(figure.axes) == 5  # 200 um hold four places of 100 um
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), cells * 2)
    lines = np.concatenate([np.array(axes.collections[1].get_segments()) for axes in figure.axes[1:]])
    assert len(lines) >= 300
    length = np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1)
    assert np.median(length) == pytest.approx(3, abs=0.01)  # px: the 1.5 um that they are off
    figure.canvas.draw()


def test_fields_are_in_the_image_and_repeat() -> None:
    points = np.random.default_rng(1).uniform(0, 5000, (4000, 2))
    places = field_centres(points, (5000, 5000), np.array([200.0, 200.0]))
    assert len(places) == 6
    assert places.min() >= 100
    assert places.max() <= 4900
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(6)
    assert apart.min() > 1500
    np.testing.assert_array_equal(places, field_centres(points, (5000, 5000), np.array([200.0, 200.0])))


def test_residuals_are_drawn_with_their_direction() -> None:
    cells, nuclei, _ = scene(300)
    table, positions = paired(cells, nuclei)
    distances = np.random.default_rng(0).uniform(0, 9, (2, 50))
    figure = residual_figure(table, cells, positions[0], TO_IMAGE, (MPP, MPP), *distances)
    arrows = next(item for item in figure.axes[0].collections if type(item).__name__ == "Quiver")
    assert np.median(arrows.U) == pytest.approx(1.5, abs=0.05)
    assert np.median(np.abs(arrows.V)) < 0.1
    assert figure.axes[1].get_title() == f"cells with a nucleus: {len(table) / 300:.0%}"
    figure.canvas.draw()


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_show_is_no_error(count: int) -> None:
    cells, nuclei, pixels = scene(count)
    table, positions = paired(cells, nuclei)
    overlay(from_array(pixels, MPP), cells, nuclei, TO_IMAGE, positions).canvas.draw()
    residual_figure(table, cells, positions[0], TO_IMAGE, (MPP, MPP), np.zeros(0), np.zeros(0)).canvas.draw()
