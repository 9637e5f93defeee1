"""Cells come out where they are, to half a level-0 pixel, from every format, resolution and kind of sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from celldetr.cells.export import export_cells
from celldetr.cells.reader import read_cells
from celldetr.slide.array import predict_array
from celldetr.slide.options import PredictOptions
from celldetr.slide.reader import open_slide
from helpers.runs import run_slide
from helpers.synthetic import (
    FORMATS,
    HEIGHT_UM,
    SCN_OFFSET,
    TILES,
    WIDTH_UM,
    CentroidModel,
    draw,
    per_cm,
    plain_tiff,
    scn,
    svs,
)

SQUARE_ONLY = ("png", "svs", "scn")  # these have one number for both axes, or none
# A TIFF at every resolution, the other formats at one of each kind.
SIDES = [("plain-tiff", (side, side)) for side in (0.092, 0.115, 0.5, 1.0)]
SIDES += [(name, (0.2738, 0.2738)) for name in FORMATS]
SIDES += [(name, (0.3, 0.5)) for name in FORMATS if name not in SQUARE_ONLY]
OPTIONS = PredictOptions(tile=192, overlap=64)


def cells_of(path: Path, out: Path, mpp: float | None = None) -> tuple[pd.DataFrame, dict[str, Any]]:
    with open_slide(path, mpp) as slide:
        directory = run_slide(slide, CentroidModel(), out, OPTIONS).directory
    return read_cells(directory), json.loads((directory / "run.json").read_text())


def check(cells: pd.DataFrame, centres: NDArray[np.float64]) -> None:
    """One cell a disc, nowhere further off than half a pixel, and no drift of all together."""
    found = cells[["x_px", "y_px"]].to_numpy()
    assert len(found) == len(centres)
    nearest = np.abs(found[:, None] - centres[None]).max(2).argmin(0)
    assert len(set(nearest)) == len(centres)
    error = found[nearest] - centres
    assert np.abs(error).max() <= 0.5
    assert np.abs(error.mean(0)).max() <= 0.1


@pytest.mark.parametrize(("name", "sides"), SIDES)
def test_every_format_and_every_resolution(tmp_path: Path, name: str, sides: tuple[float, float]) -> None:
    mpp_x, mpp_y = sides
    image, centres = draw(mpp_x, mpp_y)
    written = FORMATS[name](tmp_path / "slide", image, mpp_x, mpp_y)
    cells, run = cells_of(written["path"], tmp_path / "out", written.get("mpp"))
    check(cells, centres + (SCN_OFFSET if name == "scn" else 0))
    assert (run["mpp_x"], run["mpp_y"]) == pytest.approx((mpp_x, mpp_y), rel=1e-6)
    assert run["mpp"] ** 2 == pytest.approx(run["mpp_x"] * run["mpp_y"])
    np.testing.assert_allclose(cells["x_um"], cells["x_px"] * mpp_x, rtol=1e-6)
    np.testing.assert_allclose(cells["y_um"], cells["y_px"] * mpp_y, rtol=1e-6)
    np.testing.assert_allclose(cells["w_px"], 4 / mpp_x, rtol=1e-5)  # 8 px of the model's 0.5 um
    np.testing.assert_allclose(cells["h_px"], 4 / mpp_y, rtol=1e-5)
    # 8 um a mask pixel: the area of the scene up to one row and one column of them
    assert run["tissue_mm2"] == pytest.approx(WIDTH_UM * HEIGHT_UM * 1e-6, rel=0.1)


@pytest.mark.parametrize(("writer", "factors"), [(svs, (1, 3, 7)), (scn, (1, 4))])
def test_levels_that_openslide_places_by_an_odd_ratio(tmp_path: Path, writer: Any, factors: tuple[int, ...]) -> None:
    # 2391 x 1739 px: no level is a whole fraction, so OpenSlide's idea of the reduction is 4.0024 or the like.
    image, centres = draw(0.092, 0.092)
    path = writer(tmp_path / "slide", image, 0.092, 0.092, factors)["path"]
    with open_slide(path) as slide:
        if writer is svs:
            assert [level.downsample for level in slide.levels] == [(f, f) for f in factors]
        assert not all(level.exact for level in slide.levels)
    check(cells_of(path, tmp_path / "out")[0], centres + (SCN_OFFSET if writer is scn else 0))


def test_a_slide_of_pixels_that_are_not_square_is_the_same_tissue(tmp_path: Path) -> None:
    found = []
    for sides in ((0.5, 0.5), (0.25, 0.5)):
        out = tmp_path / str(sides)
        out.mkdir()
        path = plain_tiff(out / "slide", draw(*sides)[0], *sides)["path"]
        cells, run = cells_of(path, out)
        found.append(cells.sort_values("x_um"))
    assert "0.25 x 0.5 um" in run["warnings"][0]
    for name in ("x_um", "y_um"):
        np.testing.assert_allclose(found[0][name], found[1][name], atol=0.1)


def test_a_given_mpp_means_square_pixels(tmp_path: Path) -> None:
    path = plain_tiff(tmp_path / "slide", draw(0.5, 0.5)[0], 0.4, 0.5)["path"]
    cells, run = cells_of(path, tmp_path / "out", 0.5)
    assert (run["mpp"], run["mpp_x"], run["mpp_y"], run["mpp_source"]) == (0.5, 0.5, 0.5, "given")
    check(cells, draw(0.5, 0.5)[1])


# Kinds of sample


def grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image[..., 1].copy()


@pytest.mark.parametrize(
    "kind", ["rgba", "rgb16", "rgb12", "grey8", "grey16", "grey-inverted", "grey-png", "grey16-png"]
)
def test_every_kind_of_sample(tmp_path: Path, kind: str) -> None:
    mpp = 0.2738
    image, centres = draw(mpp, mpp)
    path = tmp_path / "slide.tif"
    if kind == "rgba":
        # The lower half is transparent over black: white, and without a cell.
        alpha = np.full(image.shape[:2], 255, np.uint8)
        alpha[image.shape[0] // 2 :] = 0
        data = np.dstack([image * (alpha[..., None] > 0), alpha])
        tifffile.imwrite(path, data, photometric="rgb", extrasamples=["unassalpha"], **TILES, **per_cm(mpp, mpp))
        reach = 5 / mpp
        centres = centres[np.abs(centres[:, 1] - image.shape[0] // 2) > reach]
        centres = centres[centres[:, 1] < image.shape[0] // 2]
    elif kind.endswith("png"):
        path = tmp_path / "slide.png"
        Image.fromarray(grey(image) if kind == "grey-png" else grey(image).astype(np.uint16) * 257).save(path)
    else:
        data, options = {
            "rgb16": (image.astype(np.uint16) * 257, {"photometric": "rgb"}),
            "rgb12": (image.astype(np.uint16) * 16, {"photometric": "rgb", "extratags": [(281, "H", 1, 4095, True)]}),
            "grey8": (grey(image), {"photometric": "minisblack"}),
            "grey16": (grey(image).astype(np.uint16) * 257, {"photometric": "minisblack"}),
            "grey-inverted": (255 - grey(image), {"photometric": "miniswhite"}),
        }[kind]
        tifffile.imwrite(path, data, **TILES, **per_cm(mpp, mpp), **options)
    cells, run = cells_of(path, tmp_path / "out", mpp)
    if kind == "rgba":  # what the line cuts is no disc any more
        cells = cells[np.abs(cells["y_px"] - image.shape[0] // 2) > 5 / mpp]
    check(cells, centres)
    said = " ".join(run["warnings"])
    assert ("the image is grey" in said) == kind.startswith("grey")
    assert ("16 bits per channel" in said) == ("16" in kind)
    assert ("0..4095 (TIFF MaxSampleValue)" in said) == (kind == "rgb12")


def test_grey_saved_as_rgb_is_found_too_and_said(tmp_path: Path) -> None:
    image, centres = draw(0.5, 0.5)
    image = np.repeat(grey(image)[..., None], 3, 2)
    frame = predict_array(image, 0.5, CentroidModel(), PredictOptions(tile=192, overlap=64, tissue=True))
    check(frame, centres)
    assert "the image is grey" in frame.attrs["celldetr"]["warnings"][0]


# Bounds


def test_bounds_are_recorded_and_geojson_counts_from_them(tmp_path: Path) -> None:
    image, centres = draw(0.5, 0.5)
    path = scn(tmp_path / "slide", image, 0.5, 0.5)["path"]
    cells, run = cells_of(path, tmp_path / "out")
    assert run["bounds_px"] == [*SCN_OFFSET, image.shape[1], image.shape[0]]
    check(cells, centres + SCN_OFFSET)
    middles = {}
    for origin in ("bounds", "slide", (10.0, 20.0)):
        out = export_cells(tmp_path / "out" / "slide", "geojson", tmp_path / "c.geojson", overwrite=True, origin=origin)
        rings = [f["geometry"]["coordinates"][0] for f in json.loads(out.read_text())["features"]]
        middles[origin] = np.array([np.mean(ring[:4], 0) for ring in rings])
    here = cells[["x_px", "y_px"]].to_numpy()
    np.testing.assert_allclose(middles["slide"], here, atol=0.011)
    np.testing.assert_allclose(middles["bounds"], here - SCN_OFFSET, atol=0.011)
    np.testing.assert_allclose(middles[10.0, 20.0], here - (10, 20), atol=0.011)
    # The table alone knows it as well.
    (tmp_path / "alone.parquet").write_bytes((tmp_path / "out" / "slide" / "cells.parquet").read_bytes())
    alone = export_cells(tmp_path / "alone.parquet", "geojson", tmp_path / "alone.geojson")
    rings = [f["geometry"]["coordinates"][0] for f in json.loads(alone.read_text())["features"]]
    np.testing.assert_allclose([np.mean(ring[:4], 0) for ring in rings], here - SCN_OFFSET, atol=0.011)


def test_a_slide_without_bounds_counts_from_its_corner(tmp_path: Path) -> None:
    path = plain_tiff(tmp_path / "slide", draw(0.5, 0.5)[0], 0.5, 0.5)["path"]
    cells, run = cells_of(path, tmp_path / "out")
    assert run["bounds_px"] is None
    out = export_cells(tmp_path / "out" / "slide", "geojson", tmp_path / "c.geojson")
    ring = json.loads(out.read_text())["features"][0]["geometry"]["coordinates"][0]
    np.testing.assert_allclose(np.mean(ring[:4], 0), cells[["x_px", "y_px"]].to_numpy()[0], atol=0.011)
