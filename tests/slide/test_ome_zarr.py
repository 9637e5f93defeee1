"""OME-Zarr: what is read is what a TIFF of the same pixels gives, and what is no RGB image is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray

import celldetr
from celldetr.errors import InputError
from celldetr.slide.damage import DamageError
from celldetr.slide.find import find_slides, is_cohort
from celldetr.slide.reader import open_slide
from corpus.scene import pixels
from helpers.ome_zarr import halved, write_attributes, write_ome_zarr
from helpers.sample_crop import MPP, crop, default_model


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return pixels()


def whole(path: Path, mpp: float | None = None) -> NDArray[np.uint8]:
    with open_slide(path, mpp) as slide:
        return slide.read_region(0, 0, slide.width, slide.height, slide.width, slide.height)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "yxc", "tczyx", "zyxc", "cxy"])
def test_pixels_levels_and_resolution_are_those_of_a_tiff(
    tmp_path: Path, image: NDArray[np.uint8], axes: str, version: str
) -> None:
    store = write_ome_zarr(tmp_path / "a.ome.zarr", [image, halved(image)], axes=axes, version=version)
    twin = tmp_path / "a.tif"
    with tifffile.TiffWriter(twin) as file:
        common: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "resolutionunit": 3}
        file.write(image, resolution=(2e4, 2e4), **common)
        file.write(halved(image), subfiletype=1, **common)
    with open_slide(store) as slide, open_slide(twin) as other:
        assert (slide.mpp_x, slide.mpp_y, slide.mpp_source) == (0.5, 0.5, "OME-Zarr scale")
        assert (slide.name, slide.format, slide.warnings) == ("a", "ome-zarr", ())
        assert slide.levels == other.levels
        for region in [(0, 0, 240, 160, 240, 160), (13, 70, 150, 66, 150, 66), (30.5, 7.25, 120, 90, 60, 45)]:
            np.testing.assert_array_equal(slide.read_region(*region), other.read_region(*region))


@pytest.mark.parametrize(
    ("unit", "scale"),
    [("micrometer", 0.25), ("nanometer", 250), ("millimetre", 2.5e-4), ("angstrom", 2500), ("meter", 2.5e-7)],
)
def test_units(tmp_path: Path, image: NDArray[np.uint8], unit: str, scale: float) -> None:
    store = write_ome_zarr(tmp_path / "a.zarr", [image], scales=[(scale, 2 * scale)], unit=unit)
    with open_slide(store) as slide:
        assert (slide.mpp_x, slide.mpp_y) == pytest.approx((0.25, 0.5))


@pytest.mark.parametrize("unit", [None, "pixel"])
def test_a_scale_without_a_unit_is_no_resolution(tmp_path: Path, image: NDArray[np.uint8], unit: str | None) -> None:
    store = write_ome_zarr(tmp_path / "a.zarr", [image], unit=unit)
    with pytest.raises(InputError, match="no micrometres per pixel"):
        open_slide(store)
    assert open_slide(store, 0.5).mpp == 0.5


def test_a_scale_of_the_whole_image_is_heeded(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    further = {"coordinateTransformations": [{"type": "scale", "scale": [1, 0.5, 0.5]}]}
    with open_slide(write_ome_zarr(tmp_path / "a.zarr", [image], image=further)) as slide:
        assert slide.mpp == 0.25


def test_levels_filled_up_to_chunks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large = np.repeat(np.repeat(rng.integers(60, 220, (80, 96, 3), dtype=np.uint8), 8, 0), 8, 1)  # 768 x 640
    half = halved(large)  # 384 x 320
    filled = np.full((512, 512, 3), 255, np.uint8)
    filled[:320, :384] = half
    exact = write_ome_zarr(tmp_path / "exact.zarr", [large, half], chunk=256)
    padded = write_ome_zarr(tmp_path / "padded.zarr", [large, filled], chunk=256)
    with open_slide(padded) as slide, open_slide(exact) as other:
        assert [level.downsample for level in slide.levels] == [(1.0, 1.0), (2.0, 2.0)]
        region = (101, 203, 400, 300, 200, 150)
        np.testing.assert_array_equal(slide.read_region(*region), other.read_region(*region))


@pytest.mark.parametrize(
    "channels",
    [
        [{"label": name} for name in ("blue", "green", "red")],
        [{"label": f"channel {i}", "color": color} for i, color in enumerate(("0000FF", "00ff00", "FF0000"))],
    ],
)
def test_channels_are_put_in_the_order_red_green_blue(
    tmp_path: Path, image: NDArray[np.uint8], channels: list[dict[str, str]]
) -> None:
    store = write_ome_zarr(tmp_path / "a.zarr", [image[..., ::-1]], channels=channels)
    np.testing.assert_array_equal(whole(store), image)


def test_channels_with_names_of_dyes_are_doubted(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    names = [{"label": name, "color": "FFFFFF"} for name in ("DAPI", "FITC", "Cy5")]
    with open_slide(write_ome_zarr(tmp_path / "a.zarr", [image], channels=names)) as slide:
        assert "'DAPI', 'FITC', 'Cy5'" in slide.warnings[0]


def test_sixteen_bits(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    store = write_ome_zarr(tmp_path / "a.zarr", [image.astype(np.uint16) * 257])
    np.testing.assert_array_equal(whole(store), image)
    assert "16 bits" in open_slide(store).warnings[0]


@pytest.mark.parametrize(
    ("data", "axes", "message"),
    [
        (np.zeros((64, 64, 1), np.uint8), "cyx", r"\(1, 64, 64\), uint8; expected one RGB image"),
        (np.zeros((64, 64, 4), np.uint8), "cyx", "expected one RGB image, not a stack or fluorescence"),
        (np.zeros((64, 64, 3), np.float32), "yxc", "expected 8 or 16 bits"),
        (np.zeros((64, 64, 3), np.int16), "yxc", "expected 8 or 16 bits"),
    ],
)
def test_what_is_not_rgb_is_refused(tmp_path: Path, data: NDArray[Any], axes: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_slide(write_ome_zarr(tmp_path / "a.zarr", [data], axes=axes))


def test_a_stack_is_refused(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    import zarr

    store = write_ome_zarr(tmp_path / "a.zarr", [image], axes="tczyx")
    zarr.create_array(str(store / "0"), shape=(1, 3, 5, 64, 64), dtype="u1", zarr_format=2, overwrite=True)
    with pytest.raises(InputError, match=r"\(1, 3, 5, 64, 64\), uint8; expected one RGB image"):
        open_slide(store)


def test_series_of_bio_formats(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    store = tmp_path / "case.zarr"
    write_attributes(store, {"bioformats2raw.layout": 3})
    write_ome_zarr(store / "0", [image[:20, :30]], axes="tczyx")  # a label
    write_ome_zarr(store / "1", [image], axes="tczyx")
    np.testing.assert_array_equal(whole(store), image)
    assert open_slide(store).warnings == ()
    write_ome_zarr(store / "2", [image[:, :120]], axes="tczyx")
    assert "holds 2 images, of which the largest, 1, is read" in open_slide(store).warnings[0]


def test_other_groups_are_refused_and_their_images_named(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    write_attributes(tmp_path / "p.zarr", {"plate": {}})
    write_attributes(tmp_path / "p.zarr/A/1", {"well": {}})
    write_ome_zarr(tmp_path / "p.zarr/A/1/0", [image])
    with pytest.raises(InputError, match=r"a plate of OME-Zarr, no image; it holds .*A/1/0: name one"):
        open_slide(tmp_path / "p.zarr")
    write_ome_zarr(tmp_path / "n.zarr", [image], version="0.6")
    with pytest.raises(InputError, match=r"version 0\.6; expected 0\.1 to 0\.5"):
        open_slide(tmp_path / "n.zarr")


@pytest.mark.parametrize(
    "about",
    [
        {"multiscales": []},
        {"multiscales": [{"datasets": []}]},
        {"multiscales": [{"datasets": [{"path": "../other"}]}]},
        {"multiscales": [{"datasets": [{"path": "absent"}]}]},
        {"multiscales": [{"axes": [{"name": "y"}], "datasets": [{"path": "0"}]}]},
        {"multiscales": [{"axes": ["c", "y", "x"], "datasets": [{"path": "0", "coordinateTransformations": [
            {"type": "scale", "scale": [1]}]}]}]},
        {"multiscales": [{"axes": ["c", "y", "x"], "datasets": [{"path": "0", "coordinateTransformations": [
            {"type": "scale", "scale": [1, -1, 0]}]}]}]},
        {"multiscales": [{"version": "0.1", "datasets": [{"path": "0"}]}]},  # five axes, where the array has three
    ],
)  # fmt: skip
def test_damaged_metadata_is_one_line(tmp_path: Path, image: NDArray[np.uint8], about: dict[str, Any]) -> None:
    store = write_ome_zarr(tmp_path / "a.zarr", [image])
    write_attributes(store, about)
    with pytest.raises(InputError, match=r"a\.zarr: "):
        open_slide(store, 0.5)


def test_codecs_that_run_code_are_refused(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    store = write_ome_zarr(tmp_path / "a.zarr", [image])
    about = json.loads((store / "0/.zarray").read_text())
    (store / "0/.zarray").write_text(json.dumps(about | {"filters": [{"id": "pickle"}]}))
    with pytest.raises(InputError, match="runs code"):
        open_slide(store)


def test_a_damaged_chunk_names_its_place(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    store = write_ome_zarr(tmp_path / "a.zarr", [image])
    chunk = store / "0" / "1.1.2"  # green
    chunk.write_bytes(chunk.read_bytes()[:40])
    with open_slide(store) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 64, 64, 64, 64), image[:64, :64])
        with pytest.raises(DamageError, match=r"chunk \(1, 2\) of level 0"):
            slide.read_region(130, 70, 30, 30, 30, 30)


def test_levels_that_lie_elsewhere_are_left_out(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    store = write_ome_zarr(tmp_path / "a.zarr", [image, halved(image)])
    about = json.loads((store / ".zattrs").read_text())
    about["multiscales"][0]["datasets"][1]["coordinateTransformations"].append(
        {"type": "translation", "translation": [0, 0, 40]}
    )
    (store / ".zattrs").write_text(json.dumps(about))
    with open_slide(store) as slide:
        assert len(slide.levels) == 1
        assert "levels that lie elsewhere" in slide.warnings[0]


def test_stores_are_found_as_slides(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    store = write_ome_zarr(tmp_path / "slides/a.ome.zarr", [image])
    write_attributes(tmp_path / "slides/table.zarr", {})
    with pytest.warns(UserWarning, match=r"1 Zarr stores that are no image \(table\.zarr\)"):
        assert [slide.path for slide in find_slides([tmp_path / "slides"])] == [store]
    assert [slide.path for slide in find_slides([store])] == [store]
    assert not is_cohort([store])


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.zarr.zip").write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(InputError, match="unpack it"):
        open_slide(tmp_path / "a.zarr.zip")


@pytest.mark.slow
def test_prediction_finds_the_cells_of_the_tiff(tmp_path: Path) -> None:
    part = crop()
    tifffile.imwrite(tmp_path / "a.tif", part, photometric="rgb", resolution=(1e4 / MPP,) * 2, resolutionunit=3)
    slides = [tmp_path / "a.tif"]
    for version in ("0.4", "0.5"):
        levels, scales = [part, halved(part)], [(MPP, MPP), (2 * MPP, 2 * MPP)]
        slides.append(write_ome_zarr(tmp_path / f"{version}.zarr", levels, scales=scales, version=version))
    tables = []
    for slide in slides:
        summary = celldetr.predict_slide(slide, tmp_path / "out" / slide.name, model=default_model())
        tables.append(celldetr.read_cells(summary.directory))
    first, *others = tables
    assert len(first) > 50
    for other in others:
        pd.testing.assert_frame_equal(other, first)
