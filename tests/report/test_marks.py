"""Cells land where they are, in the colour of their type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from celldetr.cells.reader import CellTable, open_table
from celldetr.cells.rings import has_outlines
from celldetr.report.marks import DOT_ALPHA, FADE, DotLayer, dot_radius, draw_borders, draw_cells, mean_diameter
from helpers.cell_tables import random_cells, random_embeddings, write_run

COLOURS = [(10, 20, 200), (200, 120, 0), (0, 160, 80)]


def table_of(directory: Path, boxes: list[tuple[float, float, float, float]], types: list[str]) -> CellTable:
    cells = random_cells(len(boxes))
    cells[["x_px", "y_px", "w_px", "h_px"]] = np.array(boxes, dtype=float).reshape(-1, 4)
    cells["type"] = types
    return open_table(write_run(directory / "s", cells, random_embeddings(random_cells(len(boxes)))))


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_a_box_is_outlined_and_open(tmp_path: Path, scale: float) -> None:
    table = table_of(tmp_path, [(50, 40, 40, 20)], ["epithelial"])  # covers x 30 to 70, y 30 to 50
    image = Image.new("RGB", (round(100 * scale), round(80 * scale)), "white")
    draw_borders(image, scale, table, COLOURS)
    painted = (np.asarray(image) == COLOURS[1]).all(axis=-1)
    rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
    assert (rows[0], rows[-1] + 1) == (30 * scale, 50 * scale)
    assert (columns[0], columns[-1] + 1) == (30 * scale, 70 * scale)
    assert painted[round(30 * scale)].sum() == 40 * scale
    assert not painted[round(40 * scale), round(50 * scale)]


def test_outlines_are_drawn_where_their_points_are(tmp_path: Path) -> None:
    angle = np.arange(32) * np.pi / 16
    points = np.column_stack([60 + 30 * np.cos(angle), 40 + 18 * np.sin(angle)])
    run = table_of(tmp_path, [(60, 40, 60, 36)], ["epithelial"]).path
    table = pq.read_table(run)
    geometry = pa.array(shapely.to_wkb([shapely.Polygon(points)]), pa.binary())
    pq.write_table(table.set_column(table.schema.get_field_index("geometry"), "geometry", geometry), run)
    image = Image.new("RGB", (100, 80), "white")
    outlined = open_table(run)
    draw_borders(image, 1.0, outlined, COLOURS)
    y, x = np.nonzero((np.asarray(image) == COLOURS[1]).all(axis=-1))
    away = shapely.distance(shapely.Polygon(points).exterior, shapely.points(x + 0.5, y + 0.5))
    assert len(x) > 150
    assert away.max() < 3  # lines of two pixels
    assert has_outlines(outlined)


def test_boxes_cut_by_the_edge_are_drawn_as_far_as_they_go(tmp_path: Path) -> None:
    table = table_of(tmp_path, [(0, 0, 20, 20), (99, 79, 20, 20)], ["stromal", "stromal"])
    image = Image.new("RGB", (100, 80), "white")
    draw_borders(image, 1.0, table, COLOURS)
    painted = (np.asarray(image) == COLOURS[2]).all(axis=-1)
    assert painted[9, :10].all()
    assert painted[:10, 9].all()
    assert painted[69, 89:].all()


@given(
    st.lists(
        st.tuples(st.floats(-3, 23), st.floats(-3, 18), st.integers(0, 2)),
        max_size=30,
    ),
    st.sampled_from([1.0, 1.5, 2.2, 3.0]),
)
def test_dots_equal_painting_them_one_by_one(dots: list[tuple[float, float, int]], radius: float) -> None:
    height, width = 15, 20
    hits = np.zeros((height, width))
    colour = np.zeros((height, width, 3))
    for x, y, code in dots:
        for row in range(height):
            for column in range(width):
                if (row - np.floor(y)) ** 2 + (column - np.floor(x)) ** 2 <= radius**2:
                    hits[row, column] += 1
                    colour[row, column] += COLOURS[code]
    ground = 90 + (255 - 90) * FADE
    alpha = 1 - (1 - DOT_ALPHA) ** hits[..., None]
    expected = ground * (1 - alpha) + alpha * colour / np.maximum(hits, 1)[..., None]

    layer = DotLayer(height, width, radius)
    x, y, code = (np.array([dot[i] for dot in dots], dtype=float) for i in range(3))
    layer.add(x, y, np.array(COLOURS, dtype=np.float32)[code.astype(int)].reshape(-1, 3))
    picture = layer.blend(np.full((height, width, 3), 90, dtype=np.uint8))
    assert np.abs(picture - expected).max() <= 0.51


def test_dots_do_not_depend_on_the_order_of_the_table(tmp_path: Path) -> None:
    cells = random_cells(500, size=(4000, 4000))
    shuffled = cells.sample(frac=1, random_state=1)
    ground = np.full((200, 200, 3), 200, dtype=np.uint8)
    pictures = []
    for name, frame in {"a": cells, "b": shuffled}.items():
        table = open_table(write_run(tmp_path / name, frame, random_embeddings(frame)))
        image, boxes = draw_cells(ground, 0.05, table, COLOURS)
        assert not boxes
        pictures.append(np.asarray(image))
    assert np.array_equal(*pictures)
    assert (pictures[0] != pictures[0][0, 0]).any()


def test_boxes_where_they_can_be_seen_dots_where_not(run: Path) -> None:
    table = open_table(run)
    ground = np.full((400, 600, 3), 255, dtype=np.uint8)
    assert draw_cells(ground, 1.0, table, COLOURS)[1]
    assert not draw_cells(ground[:80, :120], 0.2, table, COLOURS)[1]


def test_without_cells_the_picture_is_untouched(empty_run: Path) -> None:
    ground = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    image, _ = draw_cells(ground, 1.0, open_table(empty_run), COLOURS)
    assert np.array_equal(np.asarray(image), ground)


def test_mean_diameter_is_that_of_the_table(run: Path, empty_run: Path) -> None:
    cells: pd.DataFrame = random_cells(200, size=(600, 400))
    assert mean_diameter(open_table(run)) == pytest.approx(np.sqrt(cells["w_px"] * cells["h_px"]).mean())
    assert np.isnan(mean_diameter(open_table(empty_run)))


def test_more_cells_make_smaller_dots() -> None:
    radii = [dot_radius(1.0, n, 3000 * 2000) for n in (10, 10_000, 100_000, 1_000_000, 10_000_000)]
    assert radii == sorted(radii, reverse=True)
    assert radii[0] > 2
    assert radii[-1] == 1
