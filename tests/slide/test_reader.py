"""Regions are the right pixels at any scale, whatever the format; everything unreadable is one clear line."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from celldetr import sample_slide
from celldetr.errors import InputError
from celldetr.io.safe_io import slide_name
from celldetr.slide import base_reader
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.levels import Level, reduction
from celldetr.slide.reader import from_array, open_slide
from celldetr.slide.resolution import Resolution


def smooth_image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random blobs much larger than a pixel, so that interpolation has one right answer."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 200, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class Pyramid(SlideReader):
    """Levels made by averaging, which records what is read."""

    def __init__(self, array: NDArray[np.uint8], factors: tuple[int, ...]) -> None:
        self.images = [np.asarray(Image.fromarray(array).reduce(f)) if f > 1 else array for f in factors]
        self.reads: list[tuple[int, int, int]] = []
        levels = tuple(
            Level(a.shape[1], a.shape[0], (float(f), float(f))) for a, f in zip(self.images, factors, strict=True)
        )
        super().__init__("p", format="p", levels=levels, resolution=Resolution(0.5, 0.5, "x"))

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        self.reads.append((level, width, height))
        image = self.images[level]
        assert 0 <= x < x + width <= image.shape[1]
        assert 0 <= y < y + height <= image.shape[0]
        return image[y : y + height, x : x + width]


@given(st.integers(0, 60), st.integers(0, 40), st.integers(1, 40), st.integers(1, 30))
@settings(deadline=None)
def test_whole_pixels_at_full_resolution_are_those_of_the_array(x: int, y: int, w: int, h: int) -> None:
    array = smooth_image(70, 100)
    np.testing.assert_array_equal(from_array(array, 0.5).read_region(x, y, w, h, w, h), array[y : y + h, x : x + w])


@given(st.floats(0, 60), st.floats(0, 60), st.floats(0.5, 6), st.sampled_from([(1,), (1, 2), (1, 2, 4)]))
@settings(deadline=None, max_examples=60)
def test_fractional_regions_keep_their_place(x: float, y: float, step: float, factors: tuple[int, ...]) -> None:
    # A linear ramp is reproduced by any resampling, so the value at a pixel's centre says where that pixel is.
    rows, columns = np.mgrid[0:256, 0:256]
    ramp = np.stack([columns, rows, np.full_like(rows, 9)], -1).astype(np.uint8)
    slide = Pyramid(ramp, factors)
    got = slide.read_region(20 + x, 20 + y, 24 * step, 24 * step, 24, 24)[..., :2].astype(float)
    centre = (np.arange(24) + 0.5) * step - 0.5
    np.testing.assert_allclose(got[:, :, 0], np.tile(20 + x + centre, (24, 1)), atol=1.6)
    np.testing.assert_allclose(got[:, :, 1], np.tile(20 + y + centre, (24, 1)).T, atol=1.6)


def test_outside_is_white_and_does_not_bleed_in() -> None:
    array = np.full((40, 50, 3), 100, dtype=np.uint8)
    slide = from_array(array, 0.5)
    got = slide.read_region(-10, -20, 70, 80, 70, 80)
    expected = np.full((80, 70, 3), 255, dtype=np.uint8)
    expected[20:60, 10:60] = 100
    np.testing.assert_array_equal(got, expected)
    assert slide.read_region(0, 0, 50, 40, 31, 23).max() == 100
    assert slide.read_region(200, 200, 30, 30, 10, 10).min() == 255


@pytest.mark.parametrize(("step", "level"), [(0.5, 0), (1.9, 0), (1.99, 1), (4.1, 2), (90, 2)])
def test_coarsest_level_that_is_fine_enough_is_read(step: float, level: int) -> None:
    slide = Pyramid(smooth_image(400, 400), (1, 2, 4))
    slide.reads.clear()  # of the levels' comparison
    out = max(1, int(200 / step))
    slide.read_region(0, 0, out * step, out * step, out, out)
    assert {read[0] for read in slide.reads} == {level}


def test_large_regions_are_read_in_blocks_of_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    array = smooth_image(300, 500)
    whole = Pyramid(array, (1,)).read_region(3.3, 2.2, 480.7, 290.1, 160, 97)
    monkeypatch.setattr(base_reader, "SOURCE_PIXELS", 100 * 100)
    slide = Pyramid(array, (1,))
    blocks = slide.read_region(3.3, 2.2, 480.7, 290.1, 160, 97)
    assert len(slide.reads) == 15
    assert max(w * h for _, w, h in slide.reads) < 130 * 130
    np.testing.assert_allclose(blocks.astype(int), whole.astype(int), atol=1)


def test_a_thumbnail_is_the_mean_of_the_pixels() -> None:
    array = smooth_image(640, 480)
    reader = from_array(array, 0.5)
    got = reader.read_region(0, 0, 480, 640, *reader.thumbnail_size(8.0))
    assert got.shape == (40, 30, 3)
    means = array.reshape(40, 16, 30, 16, 3).mean((1, 3))
    assert np.abs(got - means).mean() < 3
    assert from_array(array[:3, :3], 0.5).thumbnail_size(8.0) == (1, 1)


@pytest.mark.parametrize(
    ("whole", "part", "expected"), [(4443, 2221, 2), (3567, 1783, 2), (100, 25, 4), (100, 40, 2.5)]
)
def test_truncated_levels_are_whole_reductions(whole: int, part: int, expected: float) -> None:
    assert reduction(whole, part) == expected


def test_sample_slide_is_openslides_own() -> None:
    own = openslide.OpenSlide(str(sample_slide()))
    with open_slide(sample_slide()) as slide:
        assert (slide.width, slide.height, slide.mpp) == (2220, 2967, 0.499)
        assert (slide.name, slide.format, slide.mpp_source) == ("CMU-1-Small-Region", "aperio", "openslide.mpp-x/y")
        assert slide.warnings == ()
        got = slide.read_region(1500, 1000, 300, 200, 300, 200)
        np.testing.assert_array_equal(got, np.asarray(own.read_region((1500, 1000), 0, (300, 200)).convert("RGB")))
        assert slide.read_region(2200, 2950, 40, 40, 40, 40)[20:, 20:].min() == 255


def test_second_level_of_a_slide_without_mpp(shared_data: Path) -> None:
    path = shared_data / "wsi" / "TCGA-CR-7395-01A-01-TS1.svs"
    with pytest.raises(InputError, match="`mpp"):
        open_slide(path)
    own = openslide.OpenSlide(str(path))
    with open_slide(path, 0.25) as slide:
        assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2)]
        # The second level shows the same place as the first, even far from the origin, where OpenSlide's own idea of
        # its reduction (2.0005) is off by more than a pixel.
        got = slide.read_region(3500, 3000, 512, 512, 256, 256).astype(float)
        fine = np.asarray(Image.fromarray(slide.read_region(3500, 3000, 512, 512, 512, 512)).reduce(2))
        openslides = np.asarray(own.read_region((3500, 3000), 1, (256, 256)).convert("RGB"))
        assert np.abs(got - fine).mean() < min(5.0, np.abs(openslides.astype(float) - fine).mean())


def test_threads_read_what_one_reads() -> None:
    corners = [(x, y) for x in range(0, 2000, 400) for y in range(0, 2000, 400)]
    with open_slide(sample_slide()) as slide:
        one = [slide.read_region(x, y, 200.4, 200.4, 100, 100) for x, y in corners]
        start = threading.Barrier(4)
        with ThreadPoolExecutor(4, initializer=start.wait) as pool:
            many = list(pool.map(lambda c: slide.read_region(c[0], c[1], 200.4, 200.4, 100, 100), corners))
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)


# Images in memory


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_png_and_jpeg_need_mpp_whatever_their_dpi(tmp_path: Path, suffix: str) -> None:
    array = smooth_image(64, 80)
    path = tmp_path / f"tile{suffix}"
    Image.fromarray(array).save(path, dpi=(50800, 50800), quality=95)
    with pytest.raises(InputError, match="pass `mpp`"):
        open_slide(path)
    slide = open_slide(path, 0.5)
    assert (slide.width, slide.height, slide.mpp, slide.mpp_source) == (80, 64, 0.5, "given")
    np.testing.assert_allclose(slide.read_region(0, 0, 80, 64, 80, 64).astype(int), array, atol=12)


def test_palette_alpha_and_cmyk_become_rgb(tmp_path: Path) -> None:
    array = np.full((20, 30, 3), (200, 100, 150), dtype=np.uint8)
    rgba = np.dstack([array, np.where(np.arange(30) < 10, 0, 255)[None].repeat(20, 0)]).astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(array).quantize(4).save(tmp_path / "palette.png")
    Image.fromarray(array).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    transparent = open_slide(tmp_path / "rgba.png", 0.5).read_region(0, 0, 30, 20, 30, 20)
    assert transparent[:, :10].min() == 255
    np.testing.assert_array_equal(transparent[:, 10:], array[:, 10:])
    for name in ("palette.png", "cmyk.jpg"):
        got = open_slide(tmp_path / name, 0.5).read_region(0, 0, 30, 20, 30, 20)
        np.testing.assert_allclose(got.astype(int), array, atol=4)


@pytest.mark.parametrize(
    ("mode", "value", "expected"), [("1", 1, 255), ("L", 77, 77), ("LA", (77, 255), 77), ("I;16", 77 * 257, 77)]
)
def test_grey_is_copied_to_three_channels_with_a_warning(
    tmp_path: Path, mode: str, value: int | tuple[int, int], expected: int
) -> None:
    Image.new(mode, (8, 6), value).save(tmp_path / "grey.png")
    with open_slide(tmp_path / "grey.png", 0.5) as slide:
        assert "image is grey" in slide.warnings[0]
        assert slide.warnings[1:] == ((slide.warnings[-1],) if mode == "I;16" else ())
        np.testing.assert_array_equal(slide.read_region(0, 0, 8, 6, 8, 6), np.full((6, 8, 3), expected))


def test_a_png_of_sixteen_bits_says_so(tmp_path: Path) -> None:
    samples = np.linspace(0, 65535, 60).reshape(4, 5, 3).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(samples))
    with open_slide(tmp_path / "deep.png", 0.5) as slide:
        assert "16 bits per channel" in slide.warnings[0]
        np.testing.assert_allclose(slide.read_region(0, 0, 5, 4, 5, 4), samples / 257, atol=1)


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.full((4, 4, 3), 255.0), r"astype\(.uint8.\)"),
        (np.zeros((4, 4, 4), np.uint8), r"image\[..., :3\]"),
        (np.zeros((3, 9, 9), np.uint8), "transpose"),
        (np.zeros((0, 9, 3), np.uint8), "at least one pixel"),
    ],
)
def test_arrays_that_are_not_rgb_say_what_to_do(array: NDArray[np.uint8], advice: str) -> None:
    with pytest.raises(InputError, match=advice):
        from_array(array, 0.5)


# What cannot be opened


def test_missing_directory_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nope.svs: no such file"):
        open_slide(tmp_path / "nope.svs")
    with pytest.raises(InputError, match="is a directory"):
        open_slide(tmp_path)
    for name, content, message in [("a.svs", b"", "is empty"), ("b.svs", b"not a slide" * 9, "not an image")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            open_slide(tmp_path / name)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_a_truncated_slide_is_one_clear_line(tmp_path: Path, share: float) -> None:
    whole = sample_slide().read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(whole[: int(len(whole) * share)])
    with (
        pytest.raises(InputError, match=r"cut.svs: .*(damaged|truncated|incomplete)") as error,
        open_slide(path) as slide,
    ):
        slide.read_region(0, 0, slide.width, slide.height, 200, 300)
    assert "\n" not in str(error.value)


def test_damage_inside_a_slide_names_the_region(tmp_path: Path) -> None:
    whole = bytearray(sample_slide().read_bytes())
    middle = len(whole) // 3
    whole[middle : middle + 60_000] = bytes(60_000)
    path = tmp_path / "scratched.svs"
    path.write_bytes(whole)
    with (
        pytest.raises(InputError, match=r"\d+ x \d+ px at \(\d+, \d+\) of level 0"),
        open_slide(path) as slide,
    ):
        slide.read_region(0, 0, slide.width, slide.height, 200, 300)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_one_clear_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(smooth_image(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="cannot be decoded"):
        open_slide(path, 0.5)


def test_names_lose_both_extensions_of_ome(tmp_path: Path) -> None:
    assert slide_name(tmp_path / "case 7.ome.tif") == "case 7"
    assert slide_name(tmp_path / "a.b.svs") == "a.b"


def test_the_preview_of_a_mirax_slide_is_not_the_slide(tmp_path: Path) -> None:
    """Its .mrxs file is a JPEG, which must go to OpenSlide; without the slide's folder there is nothing to read."""
    path = tmp_path / "a.mrxs"
    Image.fromarray(smooth_image(64, 64)).save(path, format="JPEG")
    with pytest.raises(InputError, match="not an image that can be read"):
        open_slide(path, 0.25)
