"""Outlines of masks, against the masks and against shapely; they move with their images."""

import numpy as np
import pytest
import shapely
from PIL import Image, ImageDraw

from celldetr.data.augment import crop, orient
from celldetr.data.masks import number_nuclei
from celldetr.data.sample import Sample
from celldetr.data.sources import rescale
from celldetr.outlines import RADII, mask_outlines, outline_points, polygon_outlines


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
    numbers, masks = number_nuclei(instances)
    boxes, _ = masks.extents()
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


def test_outlines_of_polygons_are_the_polygons() -> None:
    """An ellipse, a slanted one, two parts, a hole; none; one whose box was cut."""
    round_ = shapely.affinity.scale(shapely.Point(20, 30).buffer(1, 64), 8, 12)
    slanted = shapely.affinity.rotate(round_, 40)
    parts = shapely.MultiPolygon([shapely.box(0, 0, 6, 6), shapely.box(10, 0, 12, 6)])
    hole = round_.difference(shapely.Point(20, 30).buffer(3))
    areas = np.array([round_, slanted, parts, hole, None, round_], dtype=object)
    boxes = np.nan_to_num(shapely.bounds(areas), nan=5.0)
    boxes[5, 2] = 26
    points = polygon_outlines(areas, boxes)
    for i in (0, 1, 3, 5):
        drawn, true = shapely.Polygon(points[i]), shapely.Polygon(areas[i].exterior)
        assert drawn.intersection(true).area / drawn.union(true).area > 0.98
    assert np.allclose(points[2, 0], [12, 3])  # to the far side of the second part
    assert np.isnan(points[4]).all()
    # The rays themselves: as long as shapely cuts them.
    centre = (boxes[1, :2] + boxes[1, 2:]) / 2
    for point in points[1]:
        ray = shapely.LineString([centre, centre + 3 * (point - centre)])
        assert ray.intersection(slanted).length == pytest.approx(np.linalg.norm(point - centre), abs=1e-4)


def test_both_kinds_of_masks_have_the_same_outlines() -> None:
    made, instances = sample()
    drawn = [
        shapely.union_all(shapely.box(x, y, x + 1, y + 1)) for y, x in (np.nonzero(instances == n) for n in (3, 5, 9))
    ]
    points = polygon_outlines(np.array(drawn, dtype=object), made.boxes)
    assert made.outlines is not None
    step = 1.5 / 64 * (made.boxes[:, 2:] - made.boxes[:, :2]).max() / 2  # by which rays on a map are measured
    assert np.abs(points - made.outlines).max() < step
    assert polygon_outlines(np.zeros(0, dtype=object), np.zeros((0, 4))).shape == (0, RADII, 2)


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
