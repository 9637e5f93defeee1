"""Outlines against shapely: rays, areas and what a patch holds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_convert

from celldetr.model.memory import Memory
from celldetr.model.outline import (
    LARGEST,
    SIDE,
    TOKEN_CHANNELS,
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


def memory(sizes: torch.Tensor, width: int, height: int, d_model: int = 8) -> Memory:
    """Random tokens of images padded to ``width`` x ``height``, of strides 8 and 16."""
    shapes = tuple((-(-height // stride), -(-width // stride)) for stride in (8, 16))
    covered = torch.stack(
        [sizes / torch.tensor([w, h]) / stride for (h, w), stride in zip(shapes, (8, 16), strict=True)]
    )
    tokens = torch.randn(len(sizes), sum(h * w for h, w in shapes), d_model)
    return Memory(tokens, shapes, (8, 16), covered.transpose(0, 1), None, sizes)


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
        assert radius * step == pytest.approx(expected, abs=1e-3)  # edges end a hair late, see there


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
    shares = torch.tensor([[64 / 96, 48 / 64]])
    seen = patches(padded, boxes, shares, SIDE)
    assert seen.shape == (1, 2, 3, SIDE, SIDE)
    torch.testing.assert_close(seen, patches(x, boxes, torch.ones(1, 2), SIDE), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.mean((2, 3, 4)), torch.tensor([[0.5, 0.25]]), atol=0.01, rtol=0)


@pytest.mark.parametrize(("threads", "channels", "side"), [(1, 3, SIDE), (3, 3, SIDE), (1, TOKEN_CHANNELS, 5)])
def test_the_kernel_samples_what_grid_sample_does(threads: int, channels: int, side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, channels, 40, 56, generator=generator)
    centres = torch.rand(2, 9, 2, generator=generator) * 1.2 - 0.1  # some reach over the image
    boxes = torch.cat([centres, torch.rand(2, 9, 2, generator=generator) * 0.4 + 0.01], -1)
    shares = torch.tensor([[1, 1], [50 / 56, 33 / 40]])
    with torch.enable_grad():
        expected = patches(images, boxes, shares, side)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            found = patches(images, boxes, shares, side)
    finally:
        torch.set_num_threads(before)
    assert found.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_only_what_is_wanted_is_drawn() -> None:
    torch.manual_seed(0)
    head, images = OutlineHead(8), torch.rand(2, 3, 40, 40)
    torch.nn.init.normal_(head.radii.weight)
    boxes, seen = torch.rand(2, 5, 4) * 0.2 + 0.3, memory(torch.full((2, 2), 40.0), 40, 40)
    valid = torch.tensor([[True, False, True, True, False], [False, False, True, False, False]])
    with torch.no_grad():
        drawn, some = head(images, seen, boxes), head(images, seen, boxes, valid)
    torch.testing.assert_close(some[valid], drawn[valid])
    assert not bool(some[~valid].any())


def test_an_untrained_head_draws_the_ellipse_and_learns_a_shape() -> None:
    torch.manual_seed(0)
    head, images = OutlineHead(8), torch.rand(2, 3, 40, 40)
    boxes, seen = torch.rand(2, 3, 4) * 0.2 + 0.3, memory(torch.full((2, 2), 40.0), 40, 40)
    torch.testing.assert_close(head(images, seen, boxes), torch.ones(2, 3, RADII))
    target = (torch.rand(RADII) * 0.6 + 0.8).expand(2, 3, RADII)  # beyond the box, too
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = 1 - outline_iou(head(images, seen, boxes), target).mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05
    assert head(images, seen, boxes[:, :0]).shape == (2, 0, RADII)
    assert 1.2 < float(head(images, seen, boxes).max()) <= LARGEST


def test_a_nucleus_is_drawn_alike_in_any_padding_and_from_all_around_its_box() -> None:
    """What the head reads is in the box's own frame: pixels and tokens of an image, not of what it is padded to."""
    torch.manual_seed(0)
    head, image = OutlineHead(8), torch.rand(1, 3, 48, 64)
    torch.nn.init.normal_(head.radii.weight, std=0.3)
    boxes, sizes = torch.tensor([[[0.5, 0.5, 0.2, 0.25]]]), torch.tensor([[64.0, 48.0]])
    whole = memory(sizes, 64, 48)
    wider = memory(sizes, 96, 64)
    tokens = wider.tokens[:, : 8 * 12].reshape(1, 8, 12, 8)
    tokens[:, :6, :8] = whole.tokens[:, : 6 * 8].reshape(1, 6, 8, 8)  # the image's own, its padding random
    with torch.no_grad():
        alone = head(image, whole, boxes)
        torch.testing.assert_close(
            head(torch.nn.functional.pad(image, (0, 32, 0, 16)), wider, boxes), alone, atol=1e-4, rtol=0
        )
        for x, y, changes in ((32 + 9, 24, True), (32, 24 + 9, True), (32 + 12, 24, False)):  # the box is 12.8 x 12
            spotted = image.clone()
            spotted[..., y, x] = 9
            assert (float((head(spotted, whole, boxes) - alone).abs().max()) > 1e-4) is changes
        less = replace(whole, tokens=torch.zeros_like(whole.tokens))
        assert float((head(image, less, boxes) - alone).abs().max()) > 1e-3
