"""TIFF in its many forms: each is read by parts into the pixels that were written, with its own idea of resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from celldetr.errors import InputError
from celldetr.slide import tiff_reader
from celldetr.slide.reader import open_slide

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (150, 210, 3), dtype=np.uint8)
REGION = (37, 21, 101, 77)
TILED = {"tile": (32, 48)}


def region(path: Path, mpp: float | None = 0.5) -> NDArray[np.uint8]:
    x, y, w, h = REGION
    with open_slide(path, mpp) as slide:
        assert (slide.width, slide.height) == (210, 150)
        return slide.read_region(x, y, w, h, w, h)


def crop(image: NDArray[Any]) -> NDArray[Any]:
    x, y, w, h = REGION
    return image[y : y + h, x : x + w]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True, "compression": "zlib", "predictor": True},
        {"compression": "lzw", "rowsperstrip": 7},
        {**TILED, "compression": "lzw", "predictor": True},
        {**TILED, "compression": "jpeg2000"},
        {**TILED, "planarconfig": "separate"},
        {"planarconfig": "separate", "compression": "zlib"},
    ],
)
def test_lossless_layouts_give_the_pixels_written(tmp_path: Path, options: dict[str, Any]) -> None:
    planar = options.get("planarconfig") == "separate"
    data = IMAGE.transpose(2, 0, 1) if planar else IMAGE
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", **options)
    np.testing.assert_array_equal(region(tmp_path / "a.tif"), crop(IMAGE))


def test_large_files_in_strips_are_read_strip_by_strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", compression="zlib", rowsperstrip=7)
    tifffile.imwrite(tmp_path / "one.tif", IMAGE, photometric="rgb", compression="zlib", rowsperstrip=150)
    monkeypatch.setattr(tiff_reader, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(tiff_reader, "CACHE_BYTES", 10_000)
    monkeypatch.setattr(tiff_reader, "SEGMENT_BYTES", 20_000)
    np.testing.assert_array_equal(region(tmp_path / "a.tif"), crop(IMAGE))
    with pytest.raises(InputError, match="smaller tiles"):
        open_slide(tmp_path / "one.tif", 0.5)


def test_jpeg_in_tiles_and_in_strips(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.arange(210, dtype=np.uint8)[None, :, None], IMAGE.shape) // np.array(
        [1, 2, 3], np.uint8
    )
    tifffile.imwrite(tmp_path / "tiles.tif", smooth, photometric="rgb", compression="jpeg", **TILED)
    Image.fromarray(smooth).save(tmp_path / "strips.tif", compression="jpeg", quality=95)
    for name in ("tiles.tif", "strips.tif"):
        np.testing.assert_array_equal(region(tmp_path / name), crop(tifffile.imread(tmp_path / name)))
        np.testing.assert_allclose(region(tmp_path / name).astype(int), crop(smooth), atol=9)


def test_sparse_tiles_are_white(tmp_path: Path) -> None:
    def tiles() -> Any:
        for row in range(5):
            for column in range(5):
                yield None if row == 1 else np.full((32, 48, 3), 10 * column, np.uint8)

    tifffile.imwrite(tmp_path / "a.tif", tiles(), shape=IMAGE.shape, dtype=np.uint8, photometric="rgb", **TILED)
    got = region(tmp_path / "a.tif")
    assert got[:11].max() == got[43:].max() == 20
    assert got[11:43].min() == 255


def test_pyramids_in_subifds_and_in_pages(tmp_path: Path) -> None:
    layout: dict[str, Any] = TILED
    half = IMAGE[::2, ::2]
    with tifffile.TiffWriter(tmp_path / "sub.tif") as file:
        file.write(IMAGE, photometric="rgb", subifds=1, **layout)
        file.write(half, photometric="rgb", subfiletype=1, **layout)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        file.write(IMAGE, photometric="rgb", metadata=None, **layout)
        file.write(half, photometric="rgb", subfiletype=1, metadata=None, **layout)
        file.write(IMAGE[:60, :20], photometric="rgb", metadata=None)  # a label: another shape
    for name in ("sub.tif", "pages.tif"):
        with open_slide(tmp_path / name, 0.5) as slide:
            assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2)]
            np.testing.assert_array_equal(slide.read_region(20, 40, 60, 40, 30, 20), half[20:40, 10:40])


# Colour


def test_sixteen_bits_are_scaled_and_say_so(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE.astype(np.uint16) * 257, photometric="rgb", compression="zlib")
    np.testing.assert_array_equal(region(tmp_path / "a.tif"), crop(IMAGE))
    assert "16 bits" in open_slide(tmp_path / "a.tif", 0.5).warnings[0]


@pytest.mark.parametrize(
    ("options", "declared"),
    [
        ({"extratags": [(281, "H", 3, (4095,) * 3, True)]}, "TIFF MaxSampleValue"),
        ({"metadata": {"axes": "YXS", "SignificantBits": 12}}, "OME SignificantBits 12"),
    ],
)
def test_a_declared_range_is_the_range(tmp_path: Path, options: dict[str, Any], declared: str) -> None:
    path = tmp_path / ("a.ome.tif" if "metadata" in options else "a.tif")
    samples = RNG.integers(0, 4096, IMAGE.shape).astype(np.uint16)
    tifffile.imwrite(path, samples, photometric="rgb", **TILED, **options)
    np.testing.assert_allclose(region(path), crop(samples) * (255 / 4095), atol=0.5001)
    assert f"0..4095 ({declared})" in open_slide(path, 0.5).warnings[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_grey_is_copied_to_three_channels(tmp_path: Path, dtype: Any, photometric: str) -> None:
    grey = IMAGE[..., 0]
    samples = (grey if photometric == "minisblack" else 255 - grey).astype(dtype) * (1 if dtype == np.uint8 else 257)
    for options in ({}, {"compression": "zlib"}, TILED):
        tifffile.imwrite(tmp_path / "a.tif", samples, photometric=photometric, **options)
        np.testing.assert_array_equal(region(tmp_path / "a.tif"), crop(np.stack([grey] * 3, -1)))
        assert "image is grey" in open_slide(tmp_path / "a.tif", 0.5).warnings[0]
    alpha = np.where(np.arange(210) < 60, 0, np.iinfo(dtype).max).astype(dtype)[None].repeat(150, 0)
    both = np.stack([samples, alpha], -1)
    tifffile.imwrite(tmp_path / "a.tif", both, photometric=photometric, extrasamples=["unassalpha"], **TILED)
    expected = np.where(alpha == 0, 255, grey)
    np.testing.assert_array_equal(region(tmp_path / "a.tif"), crop(np.stack([expected] * 3, -1)))


def test_sparse_tiles_of_inverted_grey_are_white(tmp_path: Path) -> None:
    tiles = (None if i % 2 else np.full((32, 48), 40, np.uint8) for i in range(25))
    where = {"shape": IMAGE.shape[:2], "dtype": np.uint8, "photometric": "miniswhite", **TILED}
    tifffile.imwrite(tmp_path / "a.tif", tiles, **where)
    with open_slide(tmp_path / "a.tif", 0.5) as slide:
        assert set(np.unique(slide.read_region(0, 0, 96, 32, 96, 32))) == {215, 255}


def test_alpha_is_white_where_the_tag_says_alpha(tmp_path: Path) -> None:
    alpha = np.where(np.arange(210) < 60, 0, 255).astype(np.uint8)[None, :, None].repeat(150, 0)
    rgba = np.concatenate([IMAGE, alpha], 2)
    expected = np.where(alpha == 0, 255, IMAGE)
    for extra, result in [("unassalpha", expected), ("unspecified", IMAGE)]:
        tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=[extra], **TILED)
        np.testing.assert_array_equal(region(tmp_path / "a.tif"), crop(result))
    tifffile.imwrite(tmp_path / "a.tif", rgba * (alpha > 0), photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_array_equal(region(tmp_path / "a.tif"), crop(expected))


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    table = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    codes = IMAGE[..., 0].copy()
    for options in ({}, {**TILED, "compression": "zlib"}):
        tifffile.imwrite(tmp_path / "a.tif", codes, photometric="palette", colormap=table, **options)
        np.testing.assert_array_equal(region(tmp_path / "a.tif"), crop((table // 257).T[codes]))


def test_rgb_written_as_three_channels(tmp_path: Path) -> None:
    planes = IMAGE.transpose(2, 0, 1).copy()
    for options in ({}, {**TILED, "compression": "zlib"}):
        tifffile.imwrite(tmp_path / "a.ome.tif", planes, photometric="minisblack", metadata={"axes": "CYX"}, **options)
        np.testing.assert_array_equal(region(tmp_path / "a.ome.tif"), crop(IMAGE))


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (IMAGE.astype(np.float32), {"photometric": "rgb"}, "8 or 16 bits"),
        (np.zeros((5, 40, 40), np.uint8), {"metadata": {"axes": "CYX"}}, "not a stack or fluorescence channels"),
        (np.zeros((7, 40, 40, 3), np.uint8), {"photometric": "rgb"}, "not a stack"),
        (np.zeros((40, 40, 4), np.uint8), {"photometric": "separated"}, "colour space RGB"),
    ],
)
def test_what_is_not_rgb_is_refused(tmp_path: Path, data: NDArray[Any], options: dict[str, Any], message: str) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif" if "metadata" in options else tmp_path / "a.tif", data, **options)
    with pytest.raises(InputError, match=message):
        open_slide(next(tmp_path.iterdir()), 0.5)


# Resolution


@pytest.mark.parametrize(
    ("unit", "size", "expected"), [("µm", 0.2738, 0.2738), ("nm", 273.8, 0.2738), ("mm", 0.0005, 0.5)]
)
def test_ome_physical_size_with_units(tmp_path: Path, unit: str, size: float, expected: float) -> None:
    metadata = {"axes": "YXS", **{f"PhysicalSize{a}{u}": v for a in "XY" for u, v in (("", size), ("Unit", unit))}}
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, photometric="rgb", metadata=metadata, **TILED)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp == pytest.approx(expected)
        assert (slide.mpp_source, slide.format, slide.name) == ("OME PhysicalSize", "ome-tiff", "a")


def test_ome_in_pixels_is_no_resolution(tmp_path: Path) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "pixel"}
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, photometric="rgb", metadata=metadata)
    with pytest.raises(InputError, match="no micrometres per pixel"):
        open_slide(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(
    ("options", "mpp"),
    [
        ({"resolution": (20000, 20000), "resolutionunit": "centimeter"}, 0.5),
        ({"resolution": (101600, 101600), "resolutionunit": "inch"}, 0.25),
        ({"resolution": (4, 4), "imagej": True, "metadata": {"unit": "um"}}, 0.25),
        ({"resolution": (0.004, 0.004), "imagej": True, "metadata": {"unit": "nm"}}, 0.25),
    ],
)
def test_resolution_tags_of_a_microscope(tmp_path: Path, options: dict[str, Any], mpp: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", **options)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == pytest.approx(mpp, rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": (72, 72), "resolutionunit": "inch"},
        {"resolution": (2, 2), "resolutionunit": "none"},
        {},
    ],
)
def test_resolution_tags_of_a_screen_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", **options)
    with pytest.raises(InputError, match="pass `mpp`"):
        open_slide(tmp_path / "a.tif")


def test_ome_example(shared_data: Path) -> None:
    with open_slide(shared_data / "unlabelled_he_tiles" / "instanseg_HE_example.tif") as slide:
        assert slide.mpp == pytest.approx(0.50008, abs=1e-5)
        own = tifffile.imread(shared_data / "unlabelled_he_tiles" / "instanseg_HE_example.tif")
        np.testing.assert_array_equal(slide.read_region(300, 250, 400, 300, 400, 300), own[250:550, 300:700])


# Damage


@pytest.mark.parametrize("options", [{}, {**TILED, "compression": "zlib"}])
@pytest.mark.parametrize("share", [0.0005, 0.95])
def test_truncated(tmp_path: Path, options: dict[str, Any], share: float) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"truncated|damaged"):
        open_slide(path, 0.5)


def test_damaged_tile_names_the_region(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", compression="zlib", **TILED)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"210 x 150 px at \(0, 0\)"), open_slide(path, 0.5) as slide:
        slide.read_region(0, 0, 210, 150, 210, 150)


def test_a_file_of_several_images_says_that_one_is_read(tmp_path: Path) -> None:
    """Sections of one scan are told of; levels of a pyramid, labels and thumbnails are not."""
    with tifffile.TiffWriter(tmp_path / "sections.ome.tif", ome=True) as file:
        file.write(IMAGE, photometric="rgb", metadata={"axes": "YXS"})
        file.write(IMAGE[:140, :170], photometric="rgb", metadata={"axes": "YXS"})
        file.write(IMAGE[:20, :40], photometric="rgb", metadata={"axes": "YXS"})
    with open_slide(tmp_path / "sections.ome.tif", 0.5) as slide:
        assert [note for note in slide.warnings if "2 images" in note]
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as file:
        file.write(IMAGE, photometric="rgb")
        file.write(IMAGE[::2, ::2], photometric="rgb")
    with open_slide(tmp_path / "pyramid.tif", 0.5) as slide:
        assert not slide.warnings


def test_of_an_ome_tiff_of_several_files_the_one_named_is_read(tmp_path: Path) -> None:
    """Each file's OME-XML lists the images of all; the pages of others are not to be read as if they were here."""
    images = {"a": IMAGE, "b": np.tile(IMAGE, (2, 2, 1))}
    described = "".join(
        f'<Image ID="Image:{number}"><Pixels ID="Pixels:{number}" DimensionOrder="XYCZT" Type="uint8" SizeC="3"'
        f' SizeZ="1" SizeT="1" SizeX="{image.shape[1]}" SizeY="{image.shape[0]}">'
        f'<Channel ID="C:{number}" SamplesPerPixel="3"/>'
        f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{name}.ome.tif">urn:uuid:{name}</UUID></TiffData>'
        "</Pixels></Image>"
        for number, (name, image) in enumerate(images.items())
    )
    for name, image in images.items():
        xml = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{name}">{described}</OME>'
        path = tmp_path / f"{name}.ome.tif"
        tifffile.imwrite(path, image, photometric="rgb", description=xml.encode(), metadata=None)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert len(file.series) == 2  # as it looks to who follows
    np.testing.assert_array_equal(region(tmp_path / "a.ome.tif"), crop(IMAGE))


@pytest.mark.parametrize(("names", "doubted"), [(["DAPI", "FITC", "TRITC"], True), (["Red", "Green", "Blue"], False)])
def test_channels_with_names_of_dyes_are_doubted(tmp_path: Path, names: list[str], doubted: bool) -> None:
    metadata = {"axes": "CYX", "Channel": {"Name": names}}
    planes = IMAGE.transpose(2, 0, 1).copy()
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, photometric="minisblack", metadata=metadata)
    with open_slide(tmp_path / "a.ome.tif", 0.5) as slide:
        assert any("'DAPI'" in note for note in slide.warnings) == doubted


APERIO = "Aperio Image Library v11.2.1 \r\n400x300 (64x64) J2K|AppMag = 20|MPP = 0,4990"


@pytest.mark.parametrize("codec", ["jpeg2000", "webp", "jpegxl", "jpegxr", "png"])
@pytest.mark.parametrize("vendor", ["", APERIO])
def test_codecs_that_openslide_refuses_are_read_tile_by_tile(tmp_path: Path, codec: str, vendor: str) -> None:
    path = tmp_path / "a.tif"
    common: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "compression": codec, "metadata": None}
    with tifffile.TiffWriter(path) as file:
        file.write(IMAGE, description=vendor, resolution=(2e4, 2e4), resolutionunit=3, **common)
        file.write(IMAGE[::2, ::2], subfiletype=1, **common)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.499 if vendor else 0.5)
        assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2)]
        np.testing.assert_array_equal(slide.read_region(70, 30, 90, 80, 90, 80), IMAGE[30:110, 70:160])


@pytest.mark.parametrize("compression", [33003, 34712])
@pytest.mark.parametrize("transformed", [True, False])
def test_luminance_in_jpeg2000_is_decoded_once(tmp_path: Path, compression: int, transformed: bool) -> None:
    stored = IMAGE if transformed else np.asarray(Image.fromarray(IMAGE).convert("YCbCr"))
    tile = np.pad(stored, ((0, 10), (0, 14), (0, 0)))
    encoded = imagecodecs.jpeg2k_encode(tile, level=0, reversible=True, mct=transformed)
    options: dict[str, Any] = {"tile": tile.shape[:2], "compression": compression, "photometric": "ycbcr"}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, iter([encoded]), shape=IMAGE.shape, dtype=np.uint8, **options)
    with open_slide(path, 0.5) as slide:
        seen = slide.read_region(0, 0, slide.width, slide.height, slide.width, slide.height)
    assert np.abs(seen.astype(int) - IMAGE).max() <= 3


def test_codecs_in_slides_of_other_vendors_are_refused_with_what_converts_them(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "compression": "webp", "metadata": None}
    tifffile.imwrite(path, IMAGE, software="MedScan 2.0", description="OverlapsXY=0 0;Objective Power=20", **options)
    with pytest.raises(InputError, match=r"bfconvert .* -compression JPEG a\.tif a\.ome\.tiff"):
        open_slide(path)
