"""Boxes go where their pixels go; colour moves nothing; the same seed gives the same crop."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from torchvision.transforms import v2

from celldetr.config import AugmentConfig, parse
from celldetr.data.augment import augment, background_colour, corner_at, crop, orient, recolour
from celldetr.data.sample import Sample
from celldetr.errors import InputError

NOTHING = AugmentConfig(crop=48, scale=(1, 1), orientations=False, stain_p=0, colour_p=0, blur_p=0)
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]  # a nucleus of type k is painted in colour k


def painted(seed: int, width: int = 120, height: int = 90) -> Sample:
    """Up to three rectangles of different colours that do not touch, on white."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 255, dtype=np.uint8)
    boxes = []
    for column in range(3):
        x0 = column * width // 3 + rng.integers(1, 10)
        y0 = rng.integers(1, height - 32)
        x1, y1 = x0 + rng.integers(8, 28), y0 + rng.integers(8, 30)
        image[y0:y1, x0:x1] = COLOURS[column]
        boxes.append([x0, y0, x1, y1])
    at = np.array(boxes, dtype=np.float32)
    return Sample("painted", image, 0.5, at, np.arange(3), ("r", "g", "b"), (at[:, :2] + at[:, 2:]) / 2)


def textured(width: int = 80, height: int = 70) -> Sample:
    image = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return replace(painted(0, width, height), image=image)


def seen(image: np.ndarray, colour: int) -> np.ndarray:
    """Extent of the pixels that are more than half of one colour and little of the others."""
    values = image.astype(int)
    rows, columns = np.nonzero(values[..., colour] - np.delete(values, colour, axis=2).max(-1) > 127)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def assert_boxes_hold_their_colour(sample: Sample, tolerance: float) -> None:
    for box, kind in zip(sample.boxes, sample.types, strict=True):
        assert box == pytest.approx(seen(sample.image, kind), abs=tolerance)


@pytest.mark.parametrize("which", range(8))
def test_boxes_follow_the_pixels_in_all_orientations(which: int) -> None:
    source = painted(which)
    result = orient(source, which)
    assert_boxes_hold_their_colour(result, 0)
    assert result.points == pytest.approx((result.boxes[:, :2] + result.boxes[:, 2:]) / 2)


def test_the_eight_orientations_differ_and_are_what_numpy_makes() -> None:
    source = textured(60, 60)
    ours = {orient(source, which).image.tobytes() for which in range(8)}
    turned = [np.rot90(source.image, quarter) for quarter in range(4)]
    assert ours == {np.ascontiguousarray(image).tobytes() for turn in turned for image in (turn, turn[:, ::-1])}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(16, 150), st.floats(0.5, 2), st.floats(0, 1), st.floats(0, 1))
@example(46, 53, 1.9999999999999998, 0.5, 0.0)  # a point that float32 rounds onto the edge
def test_boxes_follow_the_pixels_through_crop_and_zoom(seed: int, size: int, zoom: float, x: float, y: float) -> None:
    source = painted(seed)
    result = crop(source, size, zoom, corner_at(source.image.shape, size / zoom, np.array([x, y])))
    assert result.image.shape == (size, size, 3)
    assert result.mpp == pytest.approx(source.mpp / zoom)
    assert ((result.points >= 0) & (result.points < size)).all()
    assert (result.boxes >= 0).all()
    assert (result.boxes <= size).all()
    assert_boxes_hold_their_colour(result, 1.01)
    # A cell that was dropped shows less than half of its width or height.
    for kind in set(range(3)) - set(result.types.tolist()):
        values = result.image.astype(int)
        strong = values[..., kind] - np.delete(values, kind, axis=2).max(-1) > 127
        full = (source.boxes[kind, 2:] - source.boxes[kind, :2]) * zoom
        assert strong.any(0).sum() <= full[0] / 2 + 1 or strong.any(1).sum() <= full[1] / 2 + 1


def test_doing_nothing_changes_no_pixel() -> None:
    source = textured(48, 48)
    result = augment(source, NOTHING, np.random.default_rng(0))
    assert np.array_equal(result.image, source.image)
    assert np.array_equal(result.boxes, source.boxes.clip(0, 48))
    assert np.array_equal(result.points, source.points)


def test_without_zoom_a_crop_is_a_piece_of_the_source() -> None:
    source = textured()
    places = set()
    for seed in range(30):
        image = augment(source, NOTHING, np.random.default_rng(seed)).image
        matches = [
            (x, y)
            for x in range(80 - 48 + 1)
            for y in range(70 - 48 + 1)
            if np.array_equal(source.image[y, x : x + 48], image[0])
            and np.array_equal(source.image[y : y + 48, x : x + 48], image)
        ]
        assert len(matches) == 1
        places.add(matches[0])
    xs = {x for x, _ in places}
    assert {0, 32} <= xs  # both borders are seen
    assert len(xs) > 8


def test_a_crop_larger_than_its_source_is_filled_with_background() -> None:
    source = painted(1)
    glass = np.where((source.image == 255).all(-1, keepdims=True), 230, source.image // 2).astype(np.uint8)
    source = replace(source, image=glass)
    assert background_colour(glass).tolist() == [230, 230, 230]
    result = crop(source, 200, 1.0, corner_at(source.image.shape, 200, np.array([0.3, 0.8])))
    assert len(result) == 3
    left, top = (result.boxes - source.boxes)[0, :2].astype(int)
    assert (left, top) == (round(0.3 * 80), round(0.8 * 110))
    assert np.array_equal(result.image[top : top + 90, left : left + 120], glass)
    outside = np.ones((200, 200), dtype=bool)
    outside[top : top + 90, left : left + 120] = False
    assert (result.image[outside] == 230).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_colour_moves_nothing(seed: int) -> None:
    source = textured(48, 48)
    config = AugmentConfig(crop=48, scale=(1, 1), orientations=False, stain_p=1, colour_p=1, blur_p=1)
    result = augment(source, config, np.random.default_rng(seed))
    assert not np.array_equal(result.image, source.image)
    assert np.array_equal(result.boxes, source.boxes.clip(0, 48))
    assert np.array_equal(result.types, source.types)


@pytest.mark.parametrize("changes", [{"stain_p": 1.0}, {"colour_p": 1.0}])
def test_colour_of_strength_zero_is_no_change_and_strength_has_bounds(changes: dict[str, float]) -> None:
    grey = np.full((16, 16, 3), 128, dtype=np.uint8)
    calm = NOTHING.model_copy(update={**changes, "stain": 0.0, "colour": 0.0})
    strong = NOTHING.model_copy(update=changes)
    assert np.array_equal(recolour(grey, calm, np.random.default_rng(0)), grey)
    values = np.array([recolour(grey, strong, np.random.default_rng(seed))[0, 0] for seed in range(200)]).astype(float)
    assert values.std() > 2
    assert abs(values.mean() - 128) < 8
    if "colour_p" in changes:
        # Grey has no hue or saturation and is its own mean: only brightness, 0.8 to 1.2, is left.
        assert values.min() >= 128 * 0.8 - 1
        assert values.max() <= 128 * 1.2 + 1
        assert np.ptp(values, axis=1).max() <= 1


def test_flips_without_turns() -> None:
    source = textured(48, 48)
    config = NOTHING.model_copy(update={"orientations": True, "turns": False})
    flips = {source.image[::down, ::across].tobytes() for down in (1, -1) for across in (1, -1)}
    assert {augment(source, config, np.random.default_rng(seed)).image.tobytes() for seed in range(60)} == flips


def test_contrast_brightness_and_hue_have_the_ranges_of_torchvision() -> None:
    """Of those that the recipe paper-r50 takes from the authors' configuration of torchvision's ColorJitter."""
    config = AugmentConfig(stain=0, colour_p=1, colour=0.25, contrast=0.1, hue=0.05)
    theirs = v2.ColorJitter(brightness=0.25, contrast=0.1, saturation=0.25, hue=0.05)
    tones = np.full((8, 8, 3), 90, np.uint8)
    tones[:, 4:] = 110
    red = np.full((8, 8, 3), (200, 120, 120), np.uint8)
    ranges = []
    torch.manual_seed(0)
    for jitter in (
        lambda image, seed: recolour(image, config, np.random.default_rng(seed)),
        lambda image, seed: theirs(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy(),
    ):
        grey = np.array([jitter(tones, seed)[0, [0, 7], 0] for seed in range(400)], dtype=float)
        hues = [colorsys.rgb_to_hsv(*jitter(red, seed)[0, 0] / 255)[0] for seed in range(400)]
        middle = grey.mean(1)
        numbers = [middle, np.ptp(grey, axis=1) / middle, (np.array(hues) + 0.5) % 1]
        ranges.append([(each.min(), each.max()) for each in numbers])
    for ours, others, tolerance in zip(*ranges, (2, 0.02, 0.012), strict=True):
        assert ours == pytest.approx(others, abs=tolerance)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_the_same_seed_gives_the_same_crop(seed: int) -> None:
    config = AugmentConfig(crop=32)
    first, second = (augment(painted(3), config, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.boxes, second.boxes)
    assert first.image.flags.c_contiguous


def test_zoom_is_drawn_from_its_range() -> None:
    config = NOTHING.model_copy(update={"scale": (0.8, 1.25)})
    zooms = [0.5 / augment(textured(), config, np.random.default_rng(seed)).mpp for seed in range(200)]
    assert 0.8 <= min(zooms) < 0.83
    assert 1.2 < max(zooms) <= 1.25
    assert np.median(zooms) == pytest.approx(1, abs=0.05)  # log-uniform


@pytest.mark.parametrize("scale", [(0, 1), (1.2, 0.8), (-1, 1)])
def test_a_range_of_zoom_must_rise(scale: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="scale must be"):
        parse(AugmentConfig, {"scale": scale}, "recipe")


@settings(deadline=None, max_examples=60)
@given(st.floats(0.4, 2.5), st.floats(0, 1), st.floats(0, 1))
def test_a_zoomed_crop_is_that_of_the_whole_image(zoom: float, x: float, y: float) -> None:
    source = textured(230, 190)
    smooth = Image.fromarray(source.image).filter(ImageFilter.GaussianBlur(2))  # of noise, rounding is seen
    source = replace(source, image=np.asarray(smooth))
    left, top = corner_at(source.image.shape, 40 / zoom, np.array([x, y]))
    part = crop(source, 40, zoom, np.array([left, top]))
    if zoom == 1:
        left, top = round(left), round(top)
    box = (left, top, left + 40 / zoom, top + 40 / zoom)
    whole = np.asarray(Image.fromarray(source.image).resize((40, 40), Image.Resampling.BICUBIC, box=box))
    assert np.abs(part.image.astype(int) - whole).max() <= 2  # both passes of the resampling round
