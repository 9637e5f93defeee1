"""Regions: every band in one of them, whatever the tiles."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from celldetr.slide.grid import lay_grid
from celldetr.slide.plan import Plan


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 40))
def test_regions_share_out_the_bands(tiles: list[int], least: int) -> None:
    selected = np.arange(9)[None] < np.array(tiles)[:, None]
    grid = lay_grid((0.0, 0.0, 64.0 * 9, 64.0 * len(tiles)), (1.0, 1.0), 64, 0, 0)
    plan = Plan(grid, selected, np.full(selected.shape, 0.5), 1.0)
    regions = plan.regions(plan.bands, least)
    assert [band for region in regions for band in region] == plan.bands
    counts = [plan.count(region) for region in regions]
    assert sum(counts) == sum(tiles)
    assert plan.area_of(plan.bands) == sum(tiles) / 2
    assert all(count >= least for count in counts[:-1])
    assert all(count < least + 9 for count in counts)
