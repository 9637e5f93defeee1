"""Where deformable attention looks: the three rules, against a loop over single points; it never leaves the box."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from celldetr.model.layers import DeformableAttention
from celldetr.model.memory import Memory

SHAPES = ((8, 6), (4, 3))


def memory(batch: int = 2, d_model: int = 16) -> Memory:
    torch.manual_seed(0)
    tokens = torch.randn(batch, sum(h * w for h, w in SHAPES), d_model)
    sizes = torch.tensor([[48.0, 64.0]]).expand(batch, 2)
    return Memory(tokens, SHAPES, (8, 16), torch.ones(batch, 2, 2), None, sizes)


def scrambled(**options: object) -> DeformableAttention:
    torch.manual_seed(1)
    attention = DeformableAttention(16, heads=4, levels=2, points=3, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return attention


def bilinear(level: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Value of an (h, w, C) map at (x, y) in [0, 1], zero outside, by the definition."""
    h, w, c = level.shape
    px, py = x * w - 0.5, y * h - 0.5
    out = torch.zeros(c)
    for iy in (math.floor(py), math.floor(py) + 1):
        for ix in (math.floor(px), math.floor(px) + 1):
            if 0 <= iy < h and 0 <= ix < w:
                out += level[iy, ix] * (1 - abs(px - ix)) * (1 - abs(py - iy))
    return out


def point_by_point(attention: DeformableAttention, query: torch.Tensor, boxes: torch.Tensor, m: Memory) -> torch.Tensor:
    """Constrained attention, written from the paper's formula for one query, head, level and point at a time."""
    heads, levels, points, margin = attention.heads, attention.levels, attention.points, attention.margin
    assert margin is not None
    rows = []
    for b in range(len(query)):
        value = attention.value_proj(m.tokens[b])
        for q in range(query.shape[1]):
            x, y, w, h = boxes[b, q].tolist()
            offset = attention.sampling_offsets(query[b, q]).view(heads, levels, points, 2)
            weight = attention.attention_weights(query[b, q]).view(heads, levels * points).softmax(-1)
            parts = []
            for head in range(heads):
                total, start = torch.zeros(4), 0
                for level, (rows_, columns) in enumerate(m.shapes):
                    grid = value[start : start + rows_ * columns].view(rows_, columns, heads, -1)[:, :, head]
                    start += rows_ * columns
                    for point in range(points):
                        dx, dy = offset[head, level, point].tolist()
                        at = x + 0.5 * margin * math.tanh(dx) * w, y + 0.5 * margin * math.tanh(dy) * h
                        total = total + weight[head, level * points + point] * bilinear(grid, *at)
                parts.append(total)
            rows.append(attention.output_proj(torch.cat(parts)))
    return torch.stack(rows).view(len(query), query.shape[1], -1)


@pytest.mark.parametrize("margin", [1.0, 0.6, 1.5])
def test_constrained_attention_equals_a_loop_over_points(margin: float) -> None:
    attention, m = scrambled(margin=margin, offset_start="interior"), memory()
    query = torch.randn(2, 5, 16)
    boxes = torch.rand(2, 5, 4) * torch.tensor([1.0, 1.0, 0.4, 0.4])
    with torch.no_grad():
        torch.testing.assert_close(
            attention(query, boxes, m), point_by_point(attention, query, boxes, m), atol=1e-5, rtol=1e-5
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 1.0), st.floats(0.1, 30.0))
def test_sampling_points_never_leave_the_box(seed: int, margin: float, size: float) -> None:
    attention, m = scrambled(margin=margin, offset_start="released"), memory(1)
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(1, 20, 16, generator=generator) * size
    boxes = torch.rand(1, 20, 4, generator=generator)
    at = attention.points_of(query, boxes, m)[0]
    low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    assert bool((at >= low[:, :, None, None, None] - 1e-6).all())
    assert bool((at <= high[:, :, None, None, None] + 1e-6).all())


def test_without_constraint_points_may_leave_the_box_by_the_stock_formula() -> None:
    attention, m = scrambled(), memory(1)
    query, box = torch.randn(1, 1, 16), torch.tensor([[[0.5, 0.5, 0.2, 0.1]]])
    raw = attention.sampling_offsets(query).view(1, 1, 4, 2, 3, 2)
    expected = torch.tensor([0.5, 0.5]) + raw / 3 * 0.5 * torch.tensor([0.2, 0.1])
    torch.testing.assert_close(attention.points_of(query, box, m)[0], expected)


def test_points_are_offset_by_cells_of_each_level() -> None:
    attention, m = scrambled(), memory(1)
    query, point = torch.randn(1, 1, 16), torch.tensor([[[0.25, 0.75]]])
    raw = attention.sampling_offsets(query).view(1, 1, 4, 2, 3, 2)
    cells = torch.tensor([[6.0, 8.0], [3.0, 4.0]])[None, None, None, :, None]
    torch.testing.assert_close(attention.points_of(query, point, m)[0], torch.tensor([0.25, 0.75]) + raw / cells)


def test_interior_start_spreads_points_inside_the_box_where_gradients_live() -> None:
    starts = {}
    for start in ("interior", "released"):
        attention = DeformableAttention(16, 4, 2, 4, margin=1.0, offset_start=start)  # type: ignore[arg-type]
        starts[start] = attention.sampling_offsets.bias.view(4, 2, 4, 2)
    torch.testing.assert_close(starts["interior"][0, 0, :, 0].tanh(), torch.tensor([0.2, 0.4, 0.6, 0.8]))
    slope = {name: 1 - bias[0, 0, :, 0].tanh() ** 2 for name, bias in starts.items()}
    assert slope["interior"].min() > 0.35
    assert slope["released"].min() < 0.002  # the method's warning: 0.07, 0.01, 0.001 for points 2 to 4


def test_padding_is_never_read() -> None:
    attention, m = scrambled(margin=1.0, offset_start="interior"), memory()
    padding = torch.zeros(2, m.tokens.shape[1], dtype=torch.bool)
    padding[1, 20:] = True
    masked = Memory(m.tokens, m.shapes, m.strides, m.ratios, padding, m.sizes)
    other = m.tokens.clone()
    other[1, 20:] = 1e6
    query, boxes = torch.randn(2, 5, 16), torch.rand(2, 5, 4)
    torch.testing.assert_close(
        attention(query, boxes, masked), attention(query, boxes, masked.with_tokens(other)), atol=0, rtol=0
    )
