"""Feature levels flattened to tokens: what every attention in the network reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor


def as_tensor(pairs: Sequence[Sequence[int]], like: Tensor) -> Tensor:
    """(n, 2) numbers of the dtype and device of ``like``.

    While a graph is recorded for ONNX, sizes that depend on the image are tensors; ``new_tensor`` would make constants
    of them.
    """
    if torch.onnx.is_in_onnx_export():
        return torch.stack([torch.stack(list(pair)) for pair in pairs]).to(like)  # type: ignore[arg-type]
    return like.new_tensor(pairs)


def clamp_inside(locations: Tensor, cells: Tensor) -> Tensor:
    """(..., 2) points, fractions of a level's map of ``cells`` (w, h), moved to its outermost pixel centres."""
    return locations.clamp(0.5 / cells, 1 - 0.5 / cells)


@dataclass(frozen=True)
class Memory:
    """Tokens of L feature levels of a batch, finest level first, each level row by row.

    Attributes:
        tokens: (B, S, d), S the sum of h * w over the levels.
        shapes: [(h, w)] of each level.
        strides: pixels per cell of each level.
        ratios: (B, L, 2) share (x, y) of each level's map that the image covers; the rest is padding.
        padding: (B, S) True where a token is padding, or None where there is none in the whole batch.
        sizes: (B, 2) width and height of each image, pixels.
    """

    tokens: Tensor
    shapes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    ratios: Tensor
    padding: Tensor | None
    sizes: Tensor

    def with_tokens(self, tokens: Tensor) -> Memory:
        """The same levels with other tokens."""
        return replace(self, tokens=tokens)

    def _spans(self) -> list[tuple[int, int]]:
        ends = list(accumulate(h * w for h, w in self.shapes))
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def _levels(self) -> tuple[Tensor, ...]:
        """(B, h * w, d) tokens of each level. The gradient of slices would be a whole tensor of zeros for each."""
        return self.tokens.split([h * w for h, w in self.shapes], dim=1)

    def select(self, strides: Sequence[int]) -> Memory:
        """Only the levels with these strides, in their order here."""
        keep = [i for i, stride in enumerate(self.strides) if stride in strides]
        if len(keep) == len(self.strides):
            return self
        spans = [slice(*self._spans()[i]) for i in keep]
        levels = self._levels()
        return Memory(
            tokens=torch.cat([levels[i] for i in keep], dim=1),
            shapes=tuple(self.shapes[i] for i in keep),
            strides=tuple(self.strides[i] for i in keep),
            ratios=self.ratios[:, keep],
            padding=None if self.padding is None else torch.cat([self.padding[:, span] for span in spans], dim=1),
            sizes=self.sizes,
        )

    def join(self, other: Memory) -> Memory:
        """The levels of both, finest first. They must be of the same batch and have no stride in common."""
        parts = {}
        for memory in (self, other):
            for i, ((start, end), level) in enumerate(zip(memory._spans(), memory._levels(), strict=True)):
                parts[memory.strides[i]] = (memory, i, slice(start, end), level)
        chosen = [parts[stride] for stride in sorted(parts)]
        padding = None
        if self.padding is not None or other.padding is not None:
            padding = torch.cat([memory.padding_or_false()[:, span] for memory, _, span, _ in chosen], dim=1)
        return Memory(
            tokens=torch.cat([level for _, _, _, level in chosen], dim=1),
            shapes=tuple(memory.shapes[i] for memory, i, _, _ in chosen),
            strides=tuple(sorted(parts)),
            ratios=torch.stack([memory.ratios[:, i] for memory, i, _, _ in chosen], dim=1),
            padding=padding,
            sizes=self.sizes,
        )

    def padding_or_false(self) -> Tensor:
        """(B, S) padding mask, all False where there is no padding."""
        if self.padding is not None:
            return self.padding
        return torch.zeros(self.tokens.shape[:2], dtype=torch.bool, device=self.tokens.device)

    def centres(self) -> Tensor:
        """(B, S, 2) centre (x, y) of each token's own cell, as fractions of its image; beyond 1 in the padding."""
        levels = []
        for level, (height, width) in enumerate(self.shapes):
            device, dtype = self.ratios.device, self.ratios.dtype
            y, x = torch.meshgrid(
                torch.arange(height, device=device, dtype=dtype) + 0.5,
                torch.arange(width, device=device, dtype=dtype) + 0.5,
                indexing="ij",
            )
            grid = torch.stack([x / width, y / height], dim=-1).view(1, -1, 2)
            levels.append(grid / self.ratios[:, level, None])
        return torch.cat(levels, dim=1)
