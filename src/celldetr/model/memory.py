"""Feature levels flattened to tokens: what every attention in the network reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

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


class _Level(NamedTuple):
    """One level of a ``Memory``: tokens (B, h * w, d), ratios (B, 2) and padding (B, h * w), if there is any."""

    stride: int
    shape: tuple[int, int]
    tokens: Tensor
    ratios: Tensor
    padding: Tensor | None


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

    def _levels(self) -> list[_Level]:
        sizes = [h * w for h, w in self.shapes]
        tokens = self.tokens.split(sizes, dim=1)  # the gradient of slices would be a whole tensor of zeros for each
        padding = [None] * len(sizes) if self.padding is None else self.padding.split(sizes, dim=1)
        parts = zip(self.strides, self.shapes, tokens, self.ratios.unbind(1), padding, strict=True)
        return [_Level(*each) for each in parts]

    def _of(self, levels: Sequence[_Level]) -> Memory:
        """Levels of the same batch."""
        padding = [level.padding for level in levels if level.padding is not None]
        return Memory(
            tokens=torch.cat([level.tokens for level in levels], dim=1),
            shapes=tuple(level.shape for level in levels),
            strides=tuple(level.stride for level in levels),
            ratios=torch.stack([level.ratios for level in levels], dim=1),
            padding=torch.cat(padding, dim=1) if padding else None,
            sizes=self.sizes,
        )

    def select(self, strides: Sequence[int]) -> Memory:
        """Only the levels with these strides, in their order here."""
        if set(self.strides) <= set(strides):
            return self
        return self._of([level for level in self._levels() if level.stride in strides])

    def join(self, other: Memory) -> Memory:
        """The levels of both, finest first. They must be of the same batch and have no stride in common."""
        return self._of(sorted([*self._levels(), *other._levels()], key=lambda level: level.stride))

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
