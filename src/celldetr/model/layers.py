"""Parts that the three stages share: deformable attention with its reference boxes, feed-forward block, MLP."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from celldetr.model.deformable import deformable_attention, deformable_attention_fused, sampling_points
from celldetr.model.dropout import Dropout
from celldetr.model.memory import Memory

OffsetStart = Literal["interior", "released", "stock"]


def lowered(x: Tensor) -> Tensor:
    """``x`` as autocast will want it for linear layers: where several read it, it is converted once and not by each."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def at_least_single(x: Tensor) -> Tensor:
    """``x`` in float32 at least: half precision cannot hold a location to a pixel; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, d_in: int, d_hidden: int, d_out: int, layers: int) -> None:
        super().__init__()
        sizes = [d_in] + [d_hidden] * (layers - 1) + [d_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x), inplace=True)
        return self.layers[-1](x)


class FeedForward(nn.Module):
    """Post-norm feed-forward block: LayerNorm(x + W2 relu(W1 x))."""

    def __init__(self, d_model: int, d_hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(d_model, d_hidden)
        self.contract = nn.Linear(d_hidden, d_model)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        return self.norm(x + self.dropout(self.contract(self.dropout(functional.relu(self.expand(x), inplace=True)))))


@torch.no_grad()
def start_at_zero(*last: nn.Linear) -> None:
    """Residual branches that end in these layers add nothing until they have learned something.

    Source: Zhang et al., "Fixup initialization", ICLR 2019.
    """
    for layer in last:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (Zhu et al., ICLR 2021) around reference points or boxes.

    Three ways to turn the raw offsets D of a query into sampling locations:

    - reference points (x, y): ``(x, y) + D / (w_l, h_l)``, i.e. D in cells of each level;
    - stock reference boxes: ``(x, y) + D / P * 0.5 * (w, h)``, which may leave the box;
    - constrained boxes (CellDETR): ``(x, y) + 0.5 * margin * tanh(D) * (w, h)``, which never does for margin <= 1.
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        levels: int,
        points: int,
        *,
        margin: float | None = None,
        offset_start: OffsetStart = "stock",
        inside: bool = False,
    ) -> None:
        """Create the projections.

        Args:
            d_model, heads, levels, points: sizes.
            margin: of constrained boxes; None: unconstrained.
            offset_start: how the offsets begin.
            inside: points beyond a level read its nearest pixel (``grid_sample``'s border padding) instead of zeros,
                which would mark the image's border in what is read.
        """
        super().__init__()
        self.inside = inside
        self.heads, self.levels, self.points, self.margin = heads, levels, points, margin
        self.fused = True  # on a CPU, the kernel also makes locations and weights
        self.value_proj = nn.Linear(d_model, d_model)
        self.sampling_offsets = nn.Linear(d_model, heads * levels * points * 2)
        self.attention_weights = nn.Linear(d_model, heads * levels * points)
        self.output_proj = nn.Linear(d_model, d_model)
        self._reset(offset_start)

    @torch.no_grad()
    def _reset(self, offset_start: OffsetStart) -> None:
        """Each head starts looking in its own direction, each point further out; weights start equal."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        step = torch.arange(1, self.points + 1)
        if offset_start == "interior":
            # tanh of these is k / (P + 1) along the direction: evenly spaced inside the box, where gradients live.
            start = torch.atanh(direction[:, None] * (step / (self.points + 1))[None, :, None])
        else:
            start = direction[:, None] * step[None, :, None]
        self.sampling_offsets.weight.zero_()
        self.sampling_offsets.bias.copy_(start[:, None].expand(-1, self.levels, -1, -1).flatten())
        self.attention_weights.weight.zero_()
        self.attention_weights.bias.zero_()
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            projection.bias.zero_()

    def points_of(
        self, query: Tensor, reference: Tensor, memory: Memory, *, clamp: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Where each query samples, and how much each point counts; arguments as in ``forward``.

        Args:
            clamp: with ``inside``, to the pixel centres that are read, which may lie beside a box that is narrower than
                a pixel of its level.

        Returns:
            (B, Q, heads, L, P, 2) as (x, y) fractions of each level's map (padding included), and (B, Q, heads, L, P),
            of which each head's sum is 1.
        """
        offsets, logits = (at_least_single(x) for x in self._raw(query))
        margin = self.margin if reference.shape[-1] == 4 else None
        inside = self.inside and clamp
        return sampling_points(offsets, logits, memory.shapes, reference, memory.ratios, margin, inside=inside)

    def _raw(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (B, Q, heads, L, P, 2) and logits (B, Q, heads, L, P)."""
        raw = (*query.shape[:2], self.heads, self.levels, self.points)
        return self.sampling_offsets(query).view(*raw, 2), self.attention_weights(query).view(raw)

    def forward(self, query: Tensor, reference: Tensor, memory: Memory) -> Tensor:
        """Sample the memory around each query's reference.

        Args:
            query: (B, Q, d), positions already added.
            reference: (B, Q, 2) points or (B, Q, 4) cxcywh boxes, fractions of each image's valid region.
            memory: its tokens are the values.

        Returns:
            (B, Q, d)
        """
        batch, _, d_model = query.shape
        query = lowered(query)
        value = self.value_proj(memory.tokens)
        if memory.padding is not None and not self.inside:
            value = value.masked_fill(memory.padding[..., None], 0.0)
        value = value.view(batch, -1, self.heads, d_model // self.heads)
        on_cpu = value.device.type == "cpu" and value.dtype != torch.float64
        constant = not (torch.is_grad_enabled() and reference.requires_grad)
        if self.fused and on_cpu and constant and not torch.onnx.is_in_onnx_export():
            margin = self.margin if reference.shape[-1] == 4 else None
            sampled = deformable_attention_fused(
                value, memory.shapes, *self._raw(query), reference, memory.ratios, margin, inside=self.inside
            )
        else:
            sampled = deformable_attention(value, memory.shapes, *self.points_of(query, reference, memory))
        return self.output_proj(sampled.to(query.dtype))
