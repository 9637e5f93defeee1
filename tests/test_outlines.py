"""Outlines of masks, against the masks and against shapely; they move with their images."""

import numpy as np
import pytest
import shapely
from PIL import Image, ImageDraw

from celldetr.data.augment import crop, orient
from celldetr.data.readers.instance_maps import extents
from celldetr.data.sample import Sample
from celldetr.data.sources import rescale
from celldetr.outlines import RADII, mask_outlines, outline_points


def ellipses() -> np.ndarray:
    """Instance map of three nuclei: one in the middle, one at the border, one tilted."""
    image = Image.new("I", (80, 60))
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 12, 30, 40), fill=3)
    draw.ellipse((-8, 44, 12, 70), fill=5)
    draw.polygon([(50, 10), (72, 30), (66, 38), (44, 18)], fill=9)
    return np.asarray(image, np.int32)


def iou(points: np.ndarray, mask: np.ndarray) -> float:
    """Of a polygon with a mask, on a grid of a quarter of a pixel."""
    y, x = (np.mgrid[: mask.shape[0] * 4, : mask.shape[1] * 4] + 0.5) / 4
    inside = shapely.contains_xy(shapely.Polygon(points), x, y)
    true = mask.repeat(4, 0).repeat(4, 1)
    return float((inside & true).sum() / (inside | true).sum())


def sample() -> tuple[Sample, np.ndarray]:
    instances = ellipses()
    numbers, boxes, _ = extents(instances)
    image = np.repeat(instances[..., None], 3, axis=2).astype(np.uint8) * 20
    points = (boxes[:, :2] + boxes[:, 2:]) / 2
    outlines = mask_outlines(instances, numbers, boxes)
    return Sample("a", image, 0.5, boxes, np.zeros(3, np.int64), ("a",), points, outlines=outlines), instances


def test_outlines_of_masks_are_the_masks() -> None:
    made, instances = sample()
    assert made.outlines is not None
    for points, number in zip(made.outlines, (3, 5, 9), strict=True):
        assert points.shape == (RADII, 2)
        assert iou(points, instances == number) > 0.9
    assert mask_outlines(instances, np.zeros(0, int), np.zeros((0, 4))).shape == (0, RADII, 2)


def test_radii_of_one_are_the_ellipse_in_the_box() -> None:
    points = outline_points(np.array([[10.0, 20, 30, 60]]), np.ones((1, RADII)))[0]
    assert np.allclose(((points - [20, 40]) / [10, 20]) ** 2 @ [1, 1], 1)


@pytest.mark.parametrize("which", range(8))
def test_outlines_turn_with_their_image(which: int) -> None:
    made = orient(sample()[0], which)
    assert made.outlines is not None
    for points, value in zip(made.outlines, (60, 100, 180), strict=True):
        assert iou(points, made.image[..., 0] == value) > 0.9


@pytest.mark.parametrize("zoom", [0.8, 1.5])
def test_outlines_move_with_crops_and_scales(zoom: float) -> None:
    made = sample()[0]
    for changed in (crop(made, 60, zoom, np.array([0.4, 0.6])), rescale(made, 0.5 / zoom)):
        assert changed.outlines is not None
        for points, box in zip(changed.outlines, changed.boxes, strict=True):
            low, high = np.clip(points.min(0), 0, None), np.minimum(points.max(0), changed.image.shape[1::-1])
            assert np.allclose([*low, *high], box, atol=1.5)
