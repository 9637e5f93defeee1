"""What perturbed boxes promise, as properties that hold for any boxes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert

from celldetr.training.box_sources import jitter_boxes

MIDDLE = torch.tensor([[0.5, 0.5, 0.2, 0.1], [0.4, 0.6, 0.05, 0.1], [0.55, 0.45, 0.1, 0.3]])  # too far in to be clipped
seeds = st.integers(0, 2**32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=50)
@given(seeds, st.floats(0, 0.4), st.floats(0, 0.5))
def test_every_change_is_within_the_bounds_and_relative_to_the_box(seed: int, low: float, extra: float) -> None:
    high = low + extra
    noisy = jitter_boxes(MIDDLE, low, high, generator=seeded(seed))
    grown = (noisy[:, 2:] / MIDDLE[:, 2:] - 1).abs()
    moved = ((noisy[:, :2] - MIDDLE[:, :2]) / (MIDDLE[:, 2:] / 2)).abs()
    changes = torch.cat([grown, moved])
    assert float(changes.min()) >= low - 1e-4
    assert float(changes.max()) <= high + 1e-4


@settings(deadline=None, max_examples=50)
@given(seeds, st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5))
def test_corners_stay_in_the_image(seed: int, corners: list[tuple[float, float, float, float]]) -> None:
    low, high = torch.tensor(corners).split(2, dim=1)
    boxes = torch.cat([(low + high) / 2, (high - low).abs()], dim=1)
    result = box_convert(jitter_boxes(boxes, 0.2, 0.8, generator=seeded(seed)), "cxcywh", "xyxy")
    assert float(result.min()) >= -1e-6
    assert float(result.max()) <= 1 + 1e-6
    assert bool((result[:, 2:] >= result[:, :2] - 1e-6).all())


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_the_centre_stays_in_the_box_it_came_from(seed: int) -> None:
    at_border = torch.tensor([[0.15, 0.85, 0.3, 0.3], [0.05, 0.5, 0.1, 0.1]])
    noisy = jitter_boxes(at_border, 0.0, 0.99, generator=seeded(seed))
    assert bool(((noisy[:, :2] - at_border[:, :2]).abs() <= at_border[:, 2:] / 2 + 1e-6).all())


def test_sides_and_axes_change_on_their_own() -> None:
    noisy = jitter_boxes(MIDDLE[:1].repeat(4000, 1), 0.1, 0.3, generator=seeded())
    grown = noisy[:, 2:] / MIDDLE[0, 2:] - 1
    assert abs(float(torch.corrcoef(grown.T)[0, 1])) < 0.05
    assert float((grown > 0).float().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("grow", "larger"), [(1.0, True), (0.0, False)])
def test_grow_decides_whether_boxes_grow(grow: float, larger: bool) -> None:
    noisy = jitter_boxes(MIDDLE.repeat(50, 1), 0.1, 0.3, grow, generator=seeded())
    assert bool(((noisy[:, 2:] > MIDDLE.repeat(50, 1)[:, 2:]) == larger).all())


def test_boxes_outside_the_share_are_untouched_bit_for_bit() -> None:
    boxes = MIDDLE.repeat(1000, 1)
    same = (jitter_boxes(boxes, 0.1, 0.3, share=0.6, generator=seeded()) == boxes).all(1)
    assert float(same.float().mean()) == pytest.approx(0.4, abs=0.03)
    assert torch.equal(jitter_boxes(boxes, 0.1, 0.3, share=0.0), boxes)


def test_the_generator_is_the_only_generator() -> None:
    first, second = (jitter_boxes(MIDDLE, 0.1, 0.3, generator=seeded(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, jitter_boxes(MIDDLE, 0.1, 0.3, generator=seeded(8)))


def test_any_leading_shape_and_none_at_all() -> None:
    assert jitter_boxes(torch.zeros(0, 4), 0.1, 0.3).shape == (0, 4)
    assert jitter_boxes(MIDDLE.expand(2, 5, 3, 4), 0.1, 0.3).shape == (2, 5, 3, 4)
    assert jitter_boxes(MIDDLE.double(), 0.1, 0.3).dtype == torch.float64
