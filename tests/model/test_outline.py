"""Outlines against shapely: rays, areas and what a patch holds."""

import math

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_convert

from celldetr.model.outline import (
    LARGEST,
    SIDE,
    OutlineHead,
    outline_iou,
    patches,
    radii_around,
)
from celldetr.outlines import RADII, directions, outline_points


def points_of(boxes: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
    """Points of outlines around cxcywh boxes, by the definition that tables are drawn with."""
    return torch.from_numpy(outline_points(box_convert(boxes, "cxcywh", "xyxy").numpy(), radii.numpy()))


def blob(seed: int) -> shapely.Polygon:
    """A star-shaped polygon around (20, 30)."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 17))
    radii = rng.uniform(5, 9, 17)
    return shapely.Polygon(np.column_stack([20 + radii * np.cos(angles), 30 + radii * np.sin(angles)]))


def box_of(shape: shapely.Polygon) -> torch.Tensor:
    x0, y0, x1, y1 = shape.bounds
    return torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dtype=torch.float64)


@given(st.integers(0, 1000), st.floats(-2, 2), st.floats(0.8, 1.3))
def test_radii_are_where_rays_leave_a_polygon(seed: int, shift: float, scale: float) -> None:
    shape = blob(seed)
    box = box_of(shape) * torch.tensor([1, 1, scale, scale]) + torch.tensor([shift, -shift, 0, 0])
    points = torch.tensor(shape.exterior.coords[:-1])
    radii = radii_around(box[None], points[None])[0]
    centre = shapely.Point(*box[:2].tolist())
    for radius, (dx, dy) in zip(radii.tolist(), directions().tolist(), strict=True):
        far = shapely.Point(centre.x + dx * box[2].item() * 3, centre.y + dy * box[3].item() * 3)
        ray = shapely.LineString([centre, far]).intersection(shape.exterior)
        expected = 0.0 if ray.is_empty else centre.hausdorff_distance(ray)
        step = math.hypot(dx * box[2].item() / 2, dy * box[3].item() / 2)
        assert radius * step == pytest.approx(expected, abs=1e-4)


def test_points_of_radii_give_the_radii_back() -> None:
    radii = torch.rand(5, RADII, dtype=torch.float64) * 0.5 + 0.5
    boxes = torch.tensor([[20.0, 30, 12, 18]], dtype=torch.float64).expand(5, 4)
    torch.testing.assert_close(radii_around(boxes, points_of(boxes, radii)), radii, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_the_iou_of_outlines_is_nearly_that_of_their_polygons(seed: int) -> None:
    shapes = [blob(seed), blob(seed + 100)]
    box = box_of(shapes[0])[None]
    radii = [radii_around(box, torch.tensor(shape.exterior.coords[:-1])[None]) for shape in shapes]
    drawn = [shapely.Polygon(points_of(box, each)[0].numpy()) for each in radii]
    expected = drawn[0].intersection(drawn[1]).area / drawn[0].union(drawn[1]).area
    assert float(outline_iou(*radii)) == pytest.approx(expected, abs=0.03)


def test_a_patch_shows_its_box_at_any_size_of_the_padding() -> None:
    x = torch.linspace(0, 1, 64).expand(1, 3, 48, 64)  # brightness is x
    padded = torch.nn.functional.pad(x, (0, 32, 0, 16))
    boxes = torch.tensor([[[0.5, 0.5, 0.25, 0.5], [0.25, 0.5, 0.1, 0.2]]])
    sizes = torch.tensor([[64.0, 48.0]])
    seen = patches(padded, boxes, sizes)
    assert seen.shape == (1, 2, 3, SIDE, SIDE)
    torch.testing.assert_close(seen, patches(x, boxes, sizes), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.mean((2, 3, 4)), torch.tensor([[0.5, 0.25]]), atol=0.01, rtol=0)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_kernel_samples_what_grid_sample_does(threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 40, 56, generator=generator)
    centres = torch.rand(2, 9, 2, generator=generator) * 1.2 - 0.1  # some reach over the image
    boxes = torch.cat([centres, torch.rand(2, 9, 2, generator=generator) * 0.4 + 0.01], -1)
    sizes = torch.tensor([[56.0, 40.0], [50.0, 33.0]])
    with torch.enable_grad():
        expected = patches(images, boxes, sizes)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            found = patches(images, boxes, sizes)
    finally:
        torch.set_num_threads(before)
    assert found.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_only_what_is_wanted_is_drawn() -> None:
    torch.manual_seed(0)
    head, images = OutlineHead(), torch.rand(2, 3, 40, 40)
    torch.nn.init.normal_(head.radii.weight)
    boxes, sizes = torch.rand(2, 5, 4) * 0.2 + 0.3, torch.full((2, 2), 40.0)
    valid = torch.tensor([[True, False, True, True, False], [False, False, True, False, False]])
    with torch.no_grad():
        drawn, some = head(images, boxes, sizes), head(images, boxes, sizes, valid)
    torch.testing.assert_close(some[valid], drawn[valid])
    assert not bool(some[~valid].any())


def test_an_untrained_head_draws_the_ellipse_and_learns_a_shape() -> None:
    torch.manual_seed(0)
    head, images = OutlineHead(), torch.rand(2, 3, 40, 40)
    boxes = torch.rand(2, 3, 4) * 0.2 + 0.3
    sizes = torch.full((2, 2), 40.0)
    torch.testing.assert_close(head(images, boxes, sizes), torch.ones(2, 3, RADII))
    target = (torch.rand(RADII) * 0.6 + 0.5).expand(2, 3, RADII)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = 1 - outline_iou(head(images, boxes, sizes), target).mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05
    assert head(images, boxes[:, :0], sizes).shape == (2, 0, RADII)
    assert float(head(images, boxes, sizes).max()) <= LARGEST
