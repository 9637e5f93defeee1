"""The representation decoder: one vector per box, from inside the box.

Location-feature decoupling: the content of a query is made from the box's size, and from the features inside it if
``content`` says so; its position only steers attention and is never added to the content. Box-constrained attention:
sampling points cannot leave the box. Without self-attention (the paper, and the default) a cell's embedding depends on
its own box and the image alone; ``after_first`` is the released code. Boxes may come from anywhere and stay fixed
through the layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from celldetr.config import ModelConfig
from celldetr.model.box_features import BoxFeatures
from celldetr.model.detection import SelfAttention
from celldetr.model.dropout import Dropout
from celldetr.model.geometry import geometry
from celldetr.model.layers import DeformableAttention, FeedForward, start_at_zero
from celldetr.model.memory import Memory


class BoxEncoding(nn.Module):
    """A box as content, from its size (and its place, unless ``decoupled``), and position, from its place or none.

    Sampling points are relative to the box whatever the position is, so a query needs none to look at its cell. The
    paper adds a projection of (x, y) (``query_position="absolute"``), through which the place steers the attention.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.geometry, self.d_model = geometry(config), config.d_model
        self.sine = config.location_encoding == "sine"
        inputs = config.d_model if self.sine else 2
        self.decoupled = config.decoupled
        self.content = nn.Linear(inputs if config.decoupled else 2 * inputs, config.d_model)
        self.position = nn.Linear(inputs, config.d_model) if config.query_position == "absolute" else None

    def forward(self, boxes: Tensor, sizes: Tensor, origin: Tensor | None) -> tuple[Tensor, Tensor]:
        """Encode boxes.

        Args:
            boxes: (B, N, 4) cxcywh, fractions of the image.
            sizes: (B, 2) image sizes in pixels.
            origin: (B, 2) pixel coordinates of the images' corners, or None.

        Returns:
            content (B, N, d) and position (B, N, d), zeros where there is none.
        """
        place, size = boxes.split(2, dim=-1)
        if self.sine:
            half = self.d_model // 2
            where = self.geometry.sine(place, sizes, half, origin)
            what = self.geometry.sine(size, sizes, half)
        else:
            where = self.geometry.linear(place, sizes, origin)
            what = self.geometry.linear(size, sizes)
        content = self.content(what if self.decoupled else torch.cat([where, what], dim=-1))
        return content, torch.zeros_like(content) if self.position is None else self.position(where)


class RepresentationLayer(nn.Module):
    """Optional self-attention, box-constrained cross-attention, feed-forward; post-norm."""

    def __init__(self, config: ModelConfig, *, self_attention: bool) -> None:
        super().__init__()
        self.self_attention = SelfAttention(config.d_model, config.heads) if self_attention else None
        self.self_norm = nn.LayerNorm(config.d_model) if self_attention else None
        self.cross_attention = DeformableAttention(
            config.d_model,
            config.heads,
            len(config.representation_strides),
            config.points,
            margin=config.margin if config.constrained else None,
            offset_start=config.offset_start if config.constrained else "stock",
            inside=config.border == "replicate",
        )
        self.around_points = not config.constrained and config.free_offsets == "cells"
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.ffn = FeedForward(config.d_model, config.ffn, config.dropout)
        if config.residual_start == "zero":
            start_at_zero(self.cross_attention.output_proj, self.ffn.contract)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        boxes: Tensor,
        memory: Memory,
        blocked: Tensor | None = None,
        position_in_self_attention: bool = True,
    ) -> Tensor:
        """(B, N, d) content -> (B, N, d); ``blocked`` as in ``SelfAttention``."""
        if self.self_attention is not None and self.self_norm is not None:
            where = position if position_in_self_attention else torch.zeros_like(position)
            content = self.self_norm(content + self.dropout(self.self_attention(content, where, blocked)))
        reference = boxes[..., :2] if self.around_points else boxes
        seen = self.cross_attention(content + position, reference, memory)
        return self.ffn(self.norm(content + self.dropout(seen)))


class RepresentationDecoder(nn.Module):
    """Boxes and memory in, an embedding per box out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encode = BoxEncoding(config)
        self.look = BoxFeatures(config) if config.content == "features" else None
        self.layers = nn.ModuleList(
            RepresentationLayer(config, self_attention=config.self_attention == "after_first" and i > 0)
            for i in range(config.representation_layers)
        )

    def forward(
        self,
        boxes: Tensor,
        memory: Memory,
        *,
        origin: Tensor | None = None,
        blocked: Tensor | None = None,
        position_in_self_attention: bool = True,
    ) -> tuple[Tensor, ...]:
        """Embed boxes.

        Args:
            boxes: (B, N, 4) cxcywh, fractions of each image; N may be 0.
            memory: all levels that ``representation_strides`` names.
            origin: (B, 2) pixel coordinates of the images' corners, or None for (0, 0).
            blocked: which cells (columns) a cell (row) may not see, for ``after_first``: (B, 1, N, N), True = hidden.
            position_in_self_attention: False: cells attend to each other by content alone, as the authors pretrain.

        Returns:
            (B, N, d) after each layer; the last is the embedding.
        """
        if boxes.shape[1] == 0:
            empty = memory.tokens.new_zeros(len(boxes), 0, memory.tokens.shape[-1])
            return (empty,) * len(self.layers)
        content, position = self.encode(boxes, memory.sizes, origin)
        if self.look is not None:
            content = content + self.look(boxes, memory)
        outputs = []
        for layer in self.layers:
            content = layer(content, position, boxes, memory, blocked, position_in_self_attention)
            outputs.append(content)
        return tuple(outputs)


def hide_padding(valid: Tensor) -> Tensor:
    """Mask for a batch of box lists of unequal length.

    Args:
        valid: (B, N) True for real boxes.

    Returns:
        (B, 1, N, N) True where a column is padding; a padded row sees itself, so that no softmax is empty.
    """
    blocked = ~valid[:, None, None, :].expand(-1, 1, valid.shape[1], -1)
    itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return blocked & ~itself
