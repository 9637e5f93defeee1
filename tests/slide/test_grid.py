"""Geometry of tiles as properties: at any size, overlap and offset, each point has one owner that sees round it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celldetr.slide.grid import lay_axis, lay_grid

lengths = st.one_of(st.floats(0.3, 5000), st.integers(1, 5000).map(float))
origins = st.sampled_from([0.0, 123.4, 1e5 + 1 / 3])
tilings = st.integers(32, 600).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile // 2)))
offsets = st.one_of(st.just(0.0), st.floats(0, 700))
scales = st.sampled_from([0.5, 1.002004, 2.0, 1.826])


@given(origins, lengths, tilings, offsets, st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_each_point_has_one_owner_that_sees_half_an_overlap_beyond_it(
    origin: float, length: float, tiling: tuple[int, int], offset: float, shares: list[float]
) -> None:
    tile, overlap = tiling
    axis = lay_axis(origin, length, tile, overlap, offset)
    points = origin + length * np.array([*shares, 0.0, 1.0])
    points = np.concatenate([points, axis.cuts[1:-1]])  # the lines themselves
    owned = (points[:, None] >= axis.cuts[None, :-1]) & (points[:, None] < axis.cuts[None, 1:])
    assert (owned.sum(1) == 1).all()
    owner = owned.argmax(1)
    left = points - axis.starts[owner]
    right = axis.starts[owner] + axis.size - points
    enough = overlap / 2 - 1e-6
    at_start = owner == 0
    at_end = owner == len(axis) - 1
    assert (np.where(at_start, left >= -1e-6, left >= enough)).all()
    assert (np.where(at_end, right >= -1e-6, right >= enough)).all()


@given(origins, lengths, tilings, offsets)
@settings(deadline=None)
def test_tiles_lie_inside_and_neighbours_overlap(
    origin: float, length: float, tiling: tuple[int, int], offset: float
) -> None:
    tile, overlap = tiling
    axis = lay_axis(origin, length, tile, overlap, offset)
    assert axis.starts[0] == origin
    if len(axis) == 1:
        assert axis.size <= tile
        assert length - 1e-5 <= axis.size < length + 1
        return
    assert axis.size == tile
    assert axis.starts[-1] + tile == pytest.approx(origin + length, abs=1e-5)
    step = np.diff(axis.starts)
    assert (step > 0).all()
    assert (step <= tile - overlap + 1e-6).all()
    # No tile more than needed, and one more where an offset asks for it.
    assert len(axis) <= np.ceil((length - overlap) / (tile - overlap)) + 1


def test_the_usual_row() -> None:
    axis = lay_axis(0, 1200, 512, 64)
    assert axis.starts.tolist() == [0, 448, 688]
    assert axis.cuts.tolist() == [-np.inf, 480, 824, np.inf]  # the second overlap is 272 wide, shared at its middle


def test_rounding_of_the_scale_makes_no_tile() -> None:
    assert len(lay_axis(0, 1024 * (0.1 + 0.2) / 0.6, 512, 64)) == 1


def test_offset_moves_the_seams_only() -> None:
    plain, moved = lay_axis(0, 3000, 512, 64), lay_axis(0, 3000, 512, 64, 100)
    assert moved.starts[0] == plain.starts[0]
    assert moved.starts[-1] == plain.starts[-1]
    assert set(moved.cuts[1:-1]).isdisjoint(plain.cuts[1:-1])
    assert lay_axis(0, 3000, 512, 64, 448).starts.tolist() == plain.starts.tolist()


@given(lengths, lengths, st.tuples(scales, scales), offsets)
@settings(deadline=None)
def test_owned_rectangles_tile_the_region(
    width: float, height: float, scale: tuple[float, float], offset: float
) -> None:
    grid = lay_grid((17.0, 31.0, width, height), scale, 256, 32, offset)
    boxes = grid.owned()
    assert boxes.shape == (len(grid), 4)
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1).sum()
    assert area == pytest.approx(width * height, rel=1e-6)
    np.testing.assert_allclose(boxes[0, :2], (17, 31), rtol=1e-9)
    np.testing.assert_allclose(boxes[-1, 2:], (17 + width, 31 + height), rtol=1e-6)


def test_a_tile_has_its_place_and_its_owner() -> None:
    grid = lay_grid((0, 0, 2000, 1200), (2.0, 2.0), 512, 64)
    assert (len(grid.rows), len(grid.columns), len(grid)) == (2, 3, 6)
    tile = grid.tile(1, 1)
    assert (tile.row, tile.column) == (1, 1)
    assert tile.owner == (480.0, 300.0, 724.0, np.inf)
