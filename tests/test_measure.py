"""Shapes against scikit-image and shapely, stains against the pixels whose centres shapely puts inside."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import regionprops

from celldetr.measure import SHAPES, STAINED, shapes, stains
from celldetr.outlines import RADII, outline_points
from celldetr.stain import STAINS


def drawn(seed: int, count: int = 20, where: float = 100) -> tuple[NDArray, NDArray, NDArray]:
    """Boxes, radii and polygons of wobbly nuclei, which reach over their boxes."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, where, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(3, 40, (count, 2))], 1)
    radii = (1 + 0.08 * rng.normal(size=(count, RADII)).cumsum(1)).clip(0.2, 1.45).astype(np.float16)
    return boxes, radii, outline_points(boxes, radii)


def named(values: NDArray, names: tuple[str, ...]) -> dict[str, NDArray]:
    return dict(zip(names, values.T, strict=True))


@given(st.integers(0, 10_000), st.sampled_from([1.0, 100_000.0]))
@settings(deadline=None, max_examples=20)
def test_area_perimeter_and_hull_are_shapelys(seed: int, where: float) -> None:
    _, _, points = drawn(seed, where=where)
    polygons, found = shapely.polygons(points), named(shapes(points), SHAPES)
    np.testing.assert_allclose(found["area"], shapely.area(polygons), rtol=1e-8)
    np.testing.assert_allclose(found["perimeter"], shapely.length(polygons), rtol=1e-8)
    expected = shapely.area(polygons) / shapely.area(shapely.convex_hull(polygons))
    np.testing.assert_allclose(found["solidity"], expected, rtol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_axes_are_those_of_regionprops_on_a_large_picture(seed: int) -> None:
    _, _, points = drawn(seed, count=4)
    for outline, row in zip(points, shapes(points), strict=True):
        scale = 600 / np.ptp(outline, axis=0).max()
        y, x = np.mgrid[:620, :620] + 0.5
        mask = shapely.contains_xy(shapely.Polygon((outline - outline.min(0)) * scale + 5), x, y)
        (region,), found = regionprops(mask.astype(int)), dict(zip(SHAPES, row, strict=True))
        assert found["area"] * scale**2 == pytest.approx(region.area, rel=0.002)
        assert found["major"] * scale == pytest.approx(region.axis_major_length, rel=0.002)
        assert found["minor"] * scale == pytest.approx(region.axis_minor_length, rel=0.002)
        assert found["eccentricity"] == pytest.approx(region.eccentricity, abs=0.002)
        assert abs(np.sin(found["orientation"] - region.orientation)) < 0.01
        assert found["solidity"] == pytest.approx(region.solidity, abs=0.02)  # its hull is of corners of pixels


def test_an_ellipse_has_its_own_axes() -> None:
    angle = np.arange(360) * np.pi / 180
    turned = np.array([[np.cos(0.4), np.sin(0.4)], [-np.sin(0.4), np.cos(0.4)]])
    points = (np.column_stack([9 * np.cos(angle), 4 * np.sin(angle)]) @ turned)[None]
    found = dict(zip(SHAPES, shapes(points)[0], strict=True))
    assert found["area"] == pytest.approx(np.pi * 36, rel=1e-3)
    assert (found["major"], found["minor"]) == pytest.approx((18, 8), rel=1e-3)
    assert found["eccentricity"] == pytest.approx(np.sqrt(1 - (4 / 9) ** 2), rel=1e-3)
    assert found["orientation"] == pytest.approx(np.pi / 2 - 0.4, abs=1e-3)  # from y towards x
    assert found["solidity"] == pytest.approx(1)


def test_what_has_no_area_has_no_shape() -> None:
    flat = np.zeros((2, RADII, 2))
    flat[1, :, 0] = 5 + np.cos(np.arange(RADII))
    assert np.isnan(shapes(flat)).all()
    assert shapes(flat[:0]).shape == (0, len(SHAPES))


@pytest.mark.parametrize("with_radii", [True, False])
def test_stain_is_that_of_the_pixels_inside(with_radii: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 110, 3), dtype=np.uint8)
    boxes, radii, _ = drawn(3, count=60)  # some reach over the image, some lie outside
    found = named(stains(image, boxes, radii if with_radii else None), STAINED)
    density = -np.log10((image.astype(float) + 1) / 256)
    amounts = np.linalg.solve(STAINS.T.astype(float), density.reshape(-1, 3).T).T.reshape(image.shape)
    y, x = np.mgrid[:90, :110] + 0.5
    seen = 0
    for i, polygon in enumerate(shapely.polygons(outline_points(boxes, radii if with_radii else np.ones_like(radii)))):
        inside = amounts[shapely.contains_xy(polygon, x, y)]
        if not len(inside):
            assert np.isnan(found["eosin_sd"][i])
            continue
        seen += 1
        expected = [inside[:, 0].mean(), inside[:, 0].std(), inside[:, 1].mean(), inside[:, 1].std()]
        np.testing.assert_allclose([found[name][i] for name in STAINED], expected, atol=2e-5)
    assert 40 < seen < 60
    assert stains(image, boxes[:0], None).shape == (0, len(STAINED))


def test_a_box_outside_has_no_stain() -> None:
    boxes = np.array([[-20, -20, -5, -4], [3.6, 3.6, 4.4, 4.4], [2, 2, 6, 6.0]])
    found = stains(np.full((9, 9, 3), 255, np.uint8), boxes, None)
    assert np.isnan(found[:2]).all()  # the second holds no centre of a pixel
    assert (found[2] == 0).all()  # white
