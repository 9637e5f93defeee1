"""What a query of the representation decoder may begin with: the features inside its box, averaged level by level.

With the size alone (the paper) a query is nearly the same vector for every cell, and all that a cell looks like has to
come through the decoder's attention, which begins at random. The average over a box is confined to the box and knows
no place, as the attention is; it needs no training to tell cells apart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from celldetr.config import ModelConfig
from celldetr.model.deformable import deformable_attention, split_levels
from celldetr.model.memory import Memory, as_tensor, clamp_inside

SIDE = 3  # points along each side of a box


class BoxFeatures(nn.Module):
    """(B, N, 4) boxes and the memory -> (B, N, d), a linear map of the levels' averages over each box."""

    grid: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.inside = config.heads, config.border == "replicate"
        features = config.d_model * len(config.representation_strides)
        self.norm = nn.LayerNorm(features)
        self.project = nn.Linear(features, config.d_model)
        # The centres of SIDE x SIDE equal parts of a box, in half sides from its centre.
        along = (2 * torch.arange(SIDE) + 1) / SIDE - 1
        self.register_buffer("grid", torch.cartesian_prod(along, along), persistent=False)

    def forward(self, boxes: Tensor, memory: Memory) -> Tensor:
        """Read the boxes; cxcywh, fractions of each image."""
        out: Tensor = self.project(self.features(boxes, memory))
        return out

    def features(self, boxes: Tensor, memory: Memory) -> Tensor:
        """(B, N, 4) -> (B, N, L * d), the levels' averages side by side, normalised."""
        batch, _, d_model = memory.tokens.shape
        tokens = memory.tokens
        if memory.padding is not None and not self.inside:
            tokens = tokens.masked_fill(memory.padding[..., None], 0.0)
        value = tokens.view(batch, -1, self.heads, d_model // self.heads)
        points = boxes[:, :, None, :2] + boxes[:, :, None, 2:] / 2 * self.grid  # (B, N, P, 2)
        shape = (batch, boxes.shape[1], self.heads, 1, SIDE**2)
        weights = points.new_full((), 1 / SIDE**2).expand(shape)
        seen = []
        for level, pixels in enumerate(split_levels(value, [height * width for height, width in memory.shapes])):
            places = points * memory.ratios[:, None, level, None, :]
            if self.inside:
                places = clamp_inside(places, as_tensor([memory.shapes[level][::-1]], like=places))
            places = places[:, :, None, None].expand(*shape, 2)
            seen.append(deformable_attention(pixels, memory.shapes[level : level + 1], places, weights))
        normalised: Tensor = self.norm(torch.cat(seen, dim=-1))
        return normalised
