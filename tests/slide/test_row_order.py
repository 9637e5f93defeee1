"""The order of rows: what stands near on the slide stands near in the table, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from celldetr.cells.schema import CELLS, cell_schema
from celldetr.model.output import TileCells
from celldetr.slide import row_order
from celldetr.slide.row_order import along_curve, halves, hilbert, row_groups
from celldetr.slide.seams import centres
from celldetr.slide.table_writer import write_table


def cells_at(points: NDArray[np.float64]) -> TileCells:
    n = len(points)
    boxes = np.concatenate([points - 5, points + 5], 1)
    return TileCells(boxes, np.ones(n, np.float32), np.ones((n, 1), np.float32), np.zeros((n, 2), np.float16))


def bands_of(width: float, height: float, band: float, density: float, seed: int = 0) -> list[TileCells]:
    """Cells of a slide at random, band by band."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, [width, height], (int(width * height * density), 2))
    return [cells_at(points[(points[:, 1] // band) == i]) for i in range(int(np.ceil(height / band)))]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of a hundred cells or two."""
    for name, value in (("LEAST", 100), ("MOST", 200), ("HELD", 1600)):
        monkeypatch.setattr(row_order, name, value)


def test_the_curve_visits_every_place_once_and_never_jumps() -> None:
    x, y = (axis.ravel() for axis in np.mgrid[:16, :16])
    along = hilbert(np.column_stack([x, y]), 4)
    assert sorted(along) == list(range(256))
    path = np.column_stack([x, y])[np.argsort(along)]
    assert (np.abs(np.diff(path, axis=0)).sum(1) == 1).all()


def test_neighbours_on_the_curve_are_neighbours_on_the_slide() -> None:
    points = np.random.default_rng(0).uniform(0, 1000, (2000, 2))
    ordered = points[along_curve(points)]
    steps = np.hypot(*np.diff(ordered, axis=0).T)
    assert np.median(steps) < 30  # 2000 points on 1000 x 1000 lie 22 apart


def test_halves_are_rectangles_that_do_not_overlap() -> None:
    points = np.random.default_rng(0).uniform(0, [900, 300], (1000, 2))
    parts = list(halves(points, 130))
    assert sorted(np.concatenate(parts)) == list(range(1000))
    assert {len(part) for part in parts} <= set(range(62, 131))
    boxes = [np.concatenate([points[part].min(0), points[part].max(0)]) for part in parts]
    for i, one in enumerate(boxes):
        assert max(one[2:] - one[:2]) < 3 * min(one[2:] - one[:2])
        for two in boxes[:i]:
            assert (np.minimum(one[2:], two[2:]) <= np.maximum(one[:2], two[:2])).any()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("width", "height"), [(1000.0, 1000.0), (4000.0, 300.0), (100.0, 5000.0)])
def test_every_cell_once_in_groups_that_fit(width: float, height: float) -> None:
    bands = bands_of(width, height, 50, 4e-3)
    groups = list(row_groups(bands))
    assert all(len(group) <= 200 for group in groups)
    assert np.mean([len(group) for group in groups]) > 90
    found, given = (np.concatenate([centres(each.boxes) for each in some]) for some in (groups, bands))
    assert np.array_equal(found[np.lexsort(found.T)], given[np.lexsort(given.T)])


@pytest.mark.usefixtures("small")
def test_bands_are_let_go_as_they_come() -> None:
    held = most = 0

    def stream() -> Iterator[TileCells]:
        nonlocal held, most
        for cells in bands_of(2000, 6000, 50, 1e-3):
            held += len(cells)
            most = max(most, held)
            yield cells

    for group in row_groups(stream()):
        held -= len(group)
    assert held == 0
    assert most <= row_order.HELD + 300  # and a band


def test_no_cells_no_groups() -> None:
    assert list(row_groups([])) == list(row_groups([cells_at(np.zeros((0, 2)))] * 3)) == []


@pytest.mark.usefixtures("small")
def test_a_window_reads_few_row_groups(tmp_path: Path) -> None:
    bands = bands_of(2000, 1200, 50, 4e-3)
    points = np.concatenate([centres(cells.boxes) for cells in bands])
    path = tmp_path / CELLS
    write_table(path, cell_schema(["a"], 2), bands, ["a"], (0.5, 0.5))
    metadata = pq.read_metadata(path)
    names = metadata.schema.names
    low, high = (
        np.array(
            [
                [getattr(metadata.row_group(i).column(names.index(name)).statistics, end) for name in ("x_px", "y_px")]
                for i in range(metadata.num_row_groups)
            ]
        )
        for end in ("min", "max")
    )
    assert metadata.num_row_groups > 50
    rng = np.random.default_rng(1)
    read = []
    for corner in rng.uniform(0, [1700, 900], (5, 2)):  # each holds 360 cells, some three row groups
        touched = ((low <= corner + 300) & (high >= corner)).all(1)
        read.append(int(touched.sum()))
        window = [("x_px", ">=", corner[0]), ("x_px", "<", corner[0] + 300)]
        window += [("y_px", ">=", corner[1]), ("y_px", "<", corner[1] + 300)]
        inside = pq.read_table(path, columns=["x_px"], filters=window)
        assert len(inside) == ((points >= corner) & (points < corner + 300)).all(1).sum()
    assert np.mean(read) < 9
    ids = pq.read_table(path, columns=["cell_id"])["cell_id"].to_pylist()
    assert ids == list(range(metadata.num_rows))
