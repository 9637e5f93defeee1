"""Outlines and measurements from a network to the table of a slide: what is in the columns is what geometry and pixels
say, and an interrupted run gives the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from numpy.typing import NDArray

from celldetr.cells.reader import open_table, read_cells
from celldetr.cells.schema import CELLS, MEASURED, SHAPE, STAIN
from celldetr.model.inference import TilePredictor
from celldetr.outlines import RADII
from celldetr.slide.array import predict_array
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.options import PredictOptions
from celldetr.slide.reader import from_array
from celldetr.stain import UNMIX, optical_density
from helpers.networks import predictor, tile
from helpers.runs import run_slide

MPP = 0.5
OPTIONS = PredictOptions(tile=64, overlap=24, batch_size=2, tissue=False)
IMAGE = tile(150, 110, 0)


@pytest.fixture(scope="module")
def model() -> TilePredictor:
    return predictor(outlines=True)


def slide() -> SlideReader:
    return from_array(IMAGE, MPP, "noise")


def test_columns_are_measured_on_geometry_and_pixels(tmp_path: Path, model: TilePredictor) -> None:
    folder = run_slide(slide(), model, tmp_path, OPTIONS).directory
    cells, told = read_cells(folder), json.loads(pq.read_schema(folder / CELLS).metadata[b"geo"])
    drawn = shapely.from_wkb(cells["geometry"])
    assert len(cells) > 50
    assert (shapely.get_num_coordinates(drawn) == RADII + 1).all()
    assert shapely.is_valid(drawn).mean() > 0.9  # a random network's cross themselves now and then
    np.testing.assert_allclose(cells["area_um2"], shapely.area(drawn) * MPP**2, rtol=1e-5)
    np.testing.assert_allclose(cells["perimeter_um"], shapely.length(drawn) * MPP, rtol=1e-5)
    assert not cells[list(MEASURED)].isna().all().any()
    low, high = (cells[["x_px", "y_px"]] + sign * cells[["w_px", "h_px"]].to_numpy() / 2 for sign in (-1, 1))
    bounds = shapely.bounds(drawn)
    expected = [*np.minimum(low, bounds[:, :2]).min(), *np.maximum(high, bounds[:, 2:]).max()]
    np.testing.assert_allclose(told["columns"]["geometry"]["bbox"], expected, atol=1e-3)
    amount = optical_density(IMAGE) @ UNMIX[:, 0] / np.log(10)
    y, x = np.mgrid[:150, :110] + 0.5
    inside = [amount[shapely.contains_xy(one, x, y)] for one in drawn[:40]]
    expected = [values.mean() if len(values) else np.nan for values in inside]
    # A pixel whose centre lies on the line is in or out by a rounding: float16 radii, another origin.
    found = cells["haematoxylin_mean"].to_numpy()[:40]
    assert np.array_equal(np.isnan(found), np.isnan(expected))  # an outline that holds no pixel's centre
    assert np.nanmedian(np.abs(found - expected)) < 1e-5


def test_without_outlines_shapes_are_null_and_stains_are_of_ellipses(tmp_path: Path) -> None:
    cells = predict_array(IMAGE, MPP, predictor(), OPTIONS)
    assert cells[list(SHAPE)].isna().all(axis=None)
    assert cells[list(STAIN)].notna().mean(axis=None) > 0.9
    run = run_slide(slide(), predictor(), tmp_path, OPTIONS)
    assert open_table(run.directory).read(["area_um2"])["area_um2"].null_count == len(cells)


def test_a_resumed_run_measures_the_same(tmp_path: Path, model: TilePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_slide(slide(), model, tmp_path / "whole", OPTIONS)
    predict_tiles, left = model.predict_tiles, [3]

    def failing(tiles: list[NDArray[np.uint8]], least_score: float | None = None) -> object:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return predict_tiles(tiles, least_score)

    monkeypatch.setattr(model, "predict_tiles", failing)
    with pytest.raises(KeyboardInterrupt):
        run_slide(slide(), model, tmp_path / "broken", OPTIONS)
    resumed = run_slide(slide(), model, tmp_path / "broken", OPTIONS, resume=True)
    assert (resumed.directory / "cells.parquet").read_bytes() == (whole.directory / "cells.parquet").read_bytes()
