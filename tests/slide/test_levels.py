"""Reductions of pyramids whose levels are filled up to whole tiles, against pyramids whose levels are not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from celldetr.slide.levels import Level, paddings, reduction, settle
from celldetr.slide.reader import open_slide

Image8 = NDArray[np.uint8]


def tissue(width: int, height: int, seed: int = 0) -> Image8:
    """An image with structure at all scales: noise of several sizes, added up."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cell in (6, 24, 96, 384):
        small = rng.uniform(0, 1, (math.ceil(height / cell) + 1, math.ceil(width / cell) + 1, 3))
        image = Image.fromarray((small * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(image, dtype=np.float32)
    return (total / 4).astype(np.uint8)


def reduced(image: Image8, r: int, tile: int | None = None) -> Image8:
    """The image reduced by a whole number, filled up with white to whole tiles."""
    height, width = (math.ceil(side / r) for side in image.shape[:2])
    padded = np.pad(image, ((0, height * r - image.shape[0]), (0, width * r - image.shape[1]), (0, 0)), "edge")
    small = padded.reshape(height, r, width, r, 3).mean((1, 3)).astype(np.uint8)
    if tile is None:
        return small
    full = np.full((-(-height // tile) * tile, -(-width // tile) * tile, 3), 255, dtype=np.uint8)
    full[:height, :width] = small
    return full


def levels_of(arrays: list[Image8], tile: int) -> list[Level]:
    height, width = arrays[0].shape[:2]
    return [
        Level(a.shape[1], a.shape[0], (reduction(width, a.shape[1]), reduction(height, a.shape[0])), (tile, tile))
        for a in arrays
    ]


def settled(arrays: list[Image8], tile: int) -> tuple[list[tuple[float, float] | None], tuple[str, ...]]:
    """Reductions that are used, None of levels that are not, and warnings."""
    levels, notes = settle(
        levels_of(arrays, tile), lambda index, x, y, width, height: arrays[index][y : y + height, x : x + width]
    )
    return [level.downsample if level.usable else None for level in levels], notes


@pytest.mark.parametrize(
    ("width", "height", "tile", "reductions"),
    [
        (2560, 2560, 512, [2]),  # 1536 px: 5/3 by its size, the same along both axes
        (2560, 1900, 512, [2]),  # another quotient along each axis
        (3072, 3072, 512, [4]),  # 1024 px: 3 by its size, a whole number
        (2560, 2560, 256, [2, 4, 8]),
        (2300, 1700, 512, [2, 4]),
    ],
)
def test_levels_filled_up_to_tiles_have_the_reduction_of_what_they_show(
    width: int, height: int, tile: int, reductions: list[int]
) -> None:
    image = tissue(width, height)
    found, notes = settled([image, *(reduced(image, r, tile) for r in reductions)], tile)
    assert found == [(1.0, 1.0), *((float(r), float(r)) for r in reductions)]
    assert not notes


@pytest.mark.parametrize("size", [(2560, 2560), (2049, 1537), (1000, 777)])
def test_levels_that_are_not_filled_up_keep_the_reduction_of_their_size(size: tuple[int, int]) -> None:
    image = tissue(*size)
    found, notes = settled([image, reduced(image, 2), reduced(image, 4), reduced(image, 16)], 256)
    assert found == [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0), (16.0, 16.0)]
    assert not notes


def test_a_broken_reduction_that_is_true_is_kept() -> None:
    image = tissue(1500, 1200)
    small = np.asarray(Image.fromarray(image).resize((600, 480), Image.Resampling.BOX))  # 2.5
    found, notes = settled([image, small], 256)
    assert found == [(1.0, 1.0), (2.5, 2.5)]
    assert not notes


def test_a_level_of_something_else_is_not_read_and_told() -> None:
    image, other = tissue(2560, 2560), tissue(1536, 1536, seed=1)
    found, notes = settled([image, other], 512)
    assert found == [(1.0, 1.0), None]
    assert "level 1 of 1536 x 1536 px" in notes[0]


def test_a_blank_level_of_whole_tiles_is_believed() -> None:
    blank = np.full((4096, 4096, 3), 240, dtype=np.uint8)
    found, notes = settled([blank, blank[:1024, :1024]], 512)
    assert found == [(1.0, 1.0), (4.0, 4.0)]
    assert not notes


def test_reductions_that_leave_less_than_a_tile() -> None:
    assert paddings((2560, 2560), (1536, 1536), (512, 512)) == [2.0]  # 1280 px are filled up to 1536
    assert paddings((3072, 3072), (1024, 1024), (512, 512)) == [3.0, 4.0, 5.0]
    assert paddings((2560, 2560), (1280, 1280), (256, 256)) == [2.0]


@pytest.mark.parametrize("height", [2560, 1900])
def test_a_padded_tiff_shows_what_an_exact_one_shows(height: int, tmp_path: Path) -> None:
    image = tissue(2560, height)
    for name, tile in (("exact", None), ("padded", 512)):
        small = reduced(image, 2, tile)
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as file:
            common = {"photometric": "rgb", "tile": (512, 512), "resolutionunit": "CENTIMETER", "metadata": None}
            file.write(image, resolution=(40000, 40000), **common)
            file.write(small, resolution=(20000, 20000), subfiletype=1, **common)
    with open_slide(tmp_path / "exact.tif") as exact, open_slide(tmp_path / "padded.tif") as padded:
        assert len(exact.levels) == len(padded.levels) == 2
        assert (padded.levels[1].width, padded.levels[1].height) == (1280, height // 2)
        for box in ((0, 0, 600, 400), (1800, 1300, 760, 600)):
            size = (box[2] // 2, box[3] // 2)
            assert np.array_equal(exact.read_region(*box, *size), padded.read_region(*box, *size))
        assert not padded.warnings
