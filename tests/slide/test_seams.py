"""One sighting is kept of each nucleus, even where the tiles that see it do not quite agree."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from celldetr.model.output import TileCells
from celldetr.slide.grid import Grid, Tile, lay_grid
from celldetr.slide.seams import Ownership

SCALE = (1.826, 1.21)


def sightings(tile: Tile, points: NDArray[np.float64], jitter: float, rng: np.random.Generator) -> TileCells:
    """What a detector says that sees each point (model px) inside the tile, a little displaced, in random order."""
    inside = (points > [tile.x + 4, tile.y + 4]) & (points < [tile.x + tile.width - 4, tile.y + tile.height - 4])
    seen = rng.permutation(np.flatnonzero(inside.all(1)))
    centres = points[seen] + rng.uniform(-jitter, jitter, (len(seen), 2)) - [tile.x, tile.y]
    boxes = np.concatenate([centres - 4, centres + 4], 1).astype(np.float32)
    return TileCells(boxes, np.ones(len(seen), np.float32), seen[:, None].astype(np.float32), np.zeros((len(seen), 1)))


def tiles_of(grid: Grid) -> list[Tile]:
    return [grid.tile(row, column) for row in range(len(grid.rows)) for column in range(len(grid.columns))]


def run(grid: Grid, points: NDArray[np.float64], jitter: float, rng: np.random.Generator) -> list[int]:
    ownership = Ownership(grid.scale, 0.5, (0, 0, 1e9, 1e9))
    return [
        int(i)
        for tile in tiles_of(grid)
        for i in ownership.keep(tile, sightings(tile, points, jitter, rng)).probabilities[:, 0]
    ]


@given(st.integers(0, 2**31), st.floats(0, 1.4), st.floats(0, 300), st.integers(64, 200), st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_each_point_is_kept_once(seed: int, jitter: float, offset: float, tile: int, crowd: int) -> None:
    rng = np.random.default_rng(seed)
    grid = lay_grid((0, 0, 613.3 * SCALE[0], 411.7 * SCALE[1]), SCALE, tile, 24, offset)
    # A lattice 9 px (4.5 um) apart, and points put on the lines and crossings of lines on purpose.
    lattice = np.stack(np.meshgrid(np.arange(8, 605, 9.0), np.arange(8, 403, 9.0)), -1).reshape(-1, 2)
    lines = np.stack(np.meshgrid(grid.columns.cuts[1:-1], grid.rows.cuts[1:-1]), -1).reshape(-1, 2)
    lines = lines + rng.uniform(-0.5, 0.5, lines.shape) * crowd
    free = np.hypot(*(lattice[:, None] - lines[None]).transpose(2, 0, 1)).min(1, initial=99) > 8
    points = np.concatenate([lattice[free], lines])
    assert sorted(run(grid, points, jitter, rng)) == list(range(len(points)))


def test_centre_ownership_alone_would_count_some_twice_and_lose_others() -> None:
    # The reason for the reach: without it the points on the lines above are kept 0 to 4 times.
    rng = np.random.default_rng(0)
    grid = lay_grid((0, 0, 600, 400), (1.0, 1.0), 128, 24)
    points = np.stack(np.meshgrid(grid.columns.cuts[1:-1], np.arange(30, 380, 9.0)), -1).reshape(-1, 2)
    counts = np.zeros(len(points), int)
    for tile in tiles_of(grid):
        cells = sightings(tile, points, 0.5, rng)
        centre = (cells.boxes[:, :2] + cells.boxes[:, 2:]) / 2 + [tile.x, tile.y]
        left, top, right, bottom = tile.owner
        mine = (centre >= [left, top]).all(1) & (centre < [right, bottom]).all(1)
        np.add.at(counts, cells.probabilities[mine, 0].astype(int), 1)
    assert counts.min() == 0
    assert counts.max() >= 2
    assert sorted(run(grid, points, 0.5, rng)) == list(range(len(points)))


def test_boxes_are_level0_pixels_cut_at_the_slide_and_ordered() -> None:
    grid = lay_grid((0, 0, 200, 100), (2.0, 2.0), 64, 8)
    tile = grid.tile(0, 1)
    boxes = np.array([[30, 40, 38, 50], [26, 10, 34, 20], [26, 30, 34, 70], [20, 60, 28, 64]], np.float32)
    cells = TileCells(boxes, np.arange(4, dtype=np.float32), np.ones((4, 1), np.float32), np.zeros((4, 1), np.float16))
    kept = Ownership((2.0, 2.0), 0.5, (0, 0, 200, 100)).keep(tile, cells)
    shift = tile.x * 2
    assert kept.scores.tolist() == [1.0, 2.0, 0.0]  # the last lies below the slide
    np.testing.assert_allclose(kept.boxes[0], [52 + shift, 20, 68 + shift, 40])
    np.testing.assert_allclose(kept.boxes[1], [52 + shift, 60, 68 + shift, 100])
