"""What is told from H&E by its colours, on the sample slide and on what may be made of it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from celldetr.errors import InputError
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.colour import decode_luminance
from celldetr.slide.grid import lay_grid
from celldetr.slide.plan import Plan, with_stain
from celldetr.slide.reader import from_array, open_slide
from celldetr.slide.stain_check import looks_like, stain_of

Image8 = NDArray[np.uint8]


@pytest.fixture(scope="module")
def skin() -> Image8:
    """The tissue of the sample slide at 1 um per pixel."""
    with open_slide(Path(str(files("celldetr") / "assets" / "CMU-1-Small-Region.svs"))) as reader:
        width, height = reader.thumbnail_size(1.0)
        return reader.read_region(0, 0, reader.width, reader.height, width, height)


def as_fluorescence(image: Image8) -> Image8:
    """Nuclei blue on black."""
    dark = (255 - image.astype(np.int16).min(-1)).clip(0, 255)
    out = np.zeros_like(image)
    out[..., 2] = np.where(dark > 190, dark, dark // 8)
    return out


def as_brown(image: Image8) -> Image8:
    """The darkest pixels in the colour of diaminobenzidine (Ruifrok and Johnston 2001), the others pale blue."""
    density = -np.log10((image.mean(-1) + 1) / 256)
    stain = np.where((density > np.quantile(density, 0.8))[..., None], [0.27, 0.57, 0.78], [0.15, 0.12, 0.05])
    return (255 * 10 ** (-1.5 * density[..., None] * stain)).astype(np.uint8)


def as_luminance(image: Image8) -> Image8:
    return np.asarray(Image.fromarray(image).convert("YCbCr"))


def test_the_sample_slide_is_what_it_is_and_what_is_made_of_it_is_told_apart(skin: Image8) -> None:
    assert looks_like(skin) == "H&E"
    assert looks_like(skin[..., ::-1]) == "exchanged"
    assert looks_like(as_luminance(skin)) == "luminance"
    assert looks_like(as_fluorescence(skin)) == "fluorescence"
    assert looks_like(as_brown(skin)) == "brown"
    assert looks_like(255 - skin[400:700, 300:600]) == "negative"


GLOWS = [(0, 0, 1), (0, 1, 0.1), (0.1, 0.25, 1), (0.8, 0, 0.8)]


@pytest.mark.parametrize("colour", GLOWS)
@pytest.mark.parametrize("gain", [1, 2, 4])
@pytest.mark.parametrize("offset", [0, 30])
def test_fluorescence_is_told_however_dense_it_glows(
    skin: Image8, colour: tuple[float, float, float], gain: float, offset: int
) -> None:
    amount = np.clip((255 - skin.astype(np.float64).min(-1)) / 255 - 0.2, 0, 1)
    glow = np.multiply.outer(160 * gain * amount, colour) + offset
    assert looks_like(glow.clip(0, 255).astype(np.uint8)) == "fluorescence"


def test_black_margins_and_ink_are_no_fluorescence(skin: Image8) -> None:
    for share in (0.3, 1, 3):  # of the image
        assert looks_like(np.pad(skin, ((int(share * len(skin)), 0), (0, 0), (0, 0)))) == "H&E"
        assert looks_like(np.pad(skin[..., ::-1], ((int(share * len(skin)), 0), (0, 0), (0, 0)))) == "exchanged"
    grey = as_fluorescence(skin)[..., 2:].repeat(3, -1)
    assert looks_like(np.pad(grey, ((len(skin), 0), (0, 0), (0, 0)))) == "fluorescence"
    inked = skin.copy()
    inked[::3] = (10, 10, 14)
    assert looks_like(inked) == "H&E"


def test_images_that_say_nothing_are_not_doubted() -> None:
    for value in (255, 240, 200, 128):
        assert looks_like(np.full((64, 64, 3), value, dtype=np.uint8)) == "H&E"


def test_decoding_luminance_is_what_pillow_does(skin: Image8) -> None:
    part = skin[:200, :200]
    decoded = decode_luminance(as_luminance(part)).astype(int)
    pillow = np.asarray(Image.fromarray(as_luminance(part), "YCbCr").convert("RGB")).astype(int)
    assert np.abs(decoded - pillow).max() <= 1


def tiled(image: Image8) -> tuple[Plan, SlideReader]:
    reader = from_array(np.ascontiguousarray(image), 1.0)
    grid = lay_grid((0, 0, reader.width, reader.height), (1.0, 1.0), 256, 64, 0.0)
    shape = (len(grid.rows), len(grid.columns))
    return Plan(grid, np.ones(shape, dtype=bool), np.ones(shape), 1.0), reader


def test_fluorescence_is_refused_with_the_way_on(skin: Image8) -> None:
    plan, reader = tiled(as_fluorescence(skin))
    assert stain_of(reader, plan.boxes()) == "fluorescence"
    with pytest.raises(InputError, match=r"looks like fluorescence.*any_stain"):
        with_stain(plan, reader, any_stain=False)
    assert "fluorescence" in with_stain(plan, reader, any_stain=True).notes[0]


def test_exchanged_colours_are_a_warning_with_the_remedy(skin: Image8) -> None:
    plan = with_stain(*tiled(skin[..., ::-1]), any_stain=False)
    assert plan.looks == "exchanged"
    assert "image[..., ::-1]" in plan.notes[0]
    plan = with_stain(*tiled(skin), any_stain=False)
    assert (plan.looks, plan.notes) == ("H&E", ())
