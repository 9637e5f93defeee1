"""Averages over boxes, against torchvision's RoIAlign."""

import pytest
import torch
from torchvision.ops import roi_align

from celldetr.config import ModelConfig
from celldetr.model.box_features import SIDE, BoxFeatures
from celldetr.model.memory import Memory

STRIDES = (4, 8, 16)


def memory(width: int, height: int, covered: tuple[float, float] = (1.0, 1.0)) -> Memory:
    """Random levels of an image of ``width`` x ``height`` px, which covers a share of each; the rest is padding."""
    torch.manual_seed(0)
    shapes = tuple((height // s, width // s) for s in STRIDES)
    inside = [(torch.arange(h)[:, None] < covered[1] * h) & (torch.arange(w) < covered[0] * w) for h, w in shapes]
    padding = ~torch.cat([each.flatten() for each in inside])[None]
    return Memory(
        tokens=torch.randn(1, sum(h * w for h, w in shapes), 32, requires_grad=True),
        shapes=shapes,
        strides=STRIDES,
        ratios=torch.tensor(covered).expand(1, len(STRIDES), 2),
        padding=padding if bool(padding.any()) else None,
        sizes=torch.tensor([[width * covered[0], height * covered[1]]]),
    )


def pooled(boxes: torch.Tensor, seen: Memory) -> torch.Tensor:
    """(N, L * d) by RoIAlign, one sample in the middle of each of SIDE x SIDE parts."""
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1) * seen.sizes.repeat(1, 2)
    tokens = seen.tokens if seen.padding is None else seen.tokens.masked_fill(seen.padding[..., None], 0.0)
    levels = tokens.split([h * w for h, w in seen.shapes], dim=1)
    each = []
    for level, (h, w), stride in zip(levels, seen.shapes, STRIDES, strict=True):
        image = level.transpose(1, 2).reshape(1, -1, h, w)
        each.append(roi_align(image, [corners], SIDE, 1 / stride, sampling_ratio=1, aligned=True).mean((2, 3)))
    return torch.cat(each, 1)


@pytest.mark.parametrize("covered", [(1.0, 1.0), (0.75, 0.5)])
def test_averages_and_gradients_are_those_of_roi_align(covered: tuple[float, float]) -> None:
    seen = memory(192, 128, covered)
    config = ModelConfig(types=("a",), d_model=32, heads=4, representation_strides=STRIDES)
    read = BoxFeatures(config)
    boxes = torch.cat([torch.rand(20, 2) * 0.5 + 0.25, torch.rand(20, 2) * 0.2 + 0.02], 1)  # none at a border
    mine = read(boxes[None], seen)[0]
    right = read.project(read.norm(pooled(boxes, seen)))
    torch.testing.assert_close(mine, right, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(mine)
    gradients = [torch.autograd.grad((each * weight).sum(), seen.tokens)[0] for each in (mine, right)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_a_box_is_read_alike_wherever_it_lies() -> None:
    seen = memory(192, 128)
    cell = torch.randn(32)
    tokens = torch.zeros_like(seen.tokens)
    start = 0
    boxes = []
    for (h, w), stride in zip(seen.shapes, STRIDES, strict=True):
        level = tokens[:, start : start + h * w].view(1, h, w, 32)
        for x, y in ((32, 32), (128, 64)):
            level[:, y // stride : (y + 16) // stride, x // stride : (x + 16) // stride] = cell / stride
        start += h * w
    boxes = torch.tensor([[[40 / 192, 40 / 128, 8 / 192, 8 / 128], [136 / 192, 72 / 128, 8 / 192, 8 / 128]]])
    config = ModelConfig(types=("a",), d_model=32, heads=4, representation_strides=STRIDES)
    found = BoxFeatures(config)(boxes, seen.with_tokens(tokens))
    torch.testing.assert_close(found[0, 0], found[0, 1])
