"""How the network measures: the two meanings of ``coordinates`` in one place each.

``image`` (the paper): places are fractions of the image, boxes are refined in inverse-sigmoid space. Right for images
of one size only: in a larger tile the same nucleus has other coordinates and the same correction moves it further.
``pixels`` (ours): places and sizes are encoded in pixels, boxes are refined relative to their own size. The network is
then the same function on a tile of any size. In training, an ``origin`` drawn at random shifts all coordinates, so
that none is ever outside what was seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from celldetr.config import ModelConfig
from celldetr.model.memory import Memory
from celldetr.model.position import encode_fractions, encode_pixels

UNIT_PX = 256.0  # pixels that count as 1 where coordinates enter a linear layer
ANCHOR = 2.0  # a token's first box is this many cells of its level wide
MAX_LOG_SCALE = 1.5  # a refinement step changes a side by at most e^1.5 = 4.5 times


class ImageGeometry:
    """Fractions of the image, after Deformable DETR. Fractions are always of the image's valid region."""

    def ratios(self, cells: Tensor, valid_cells: Tensor, strides: Tensor, sizes: Tensor) -> Tensor:
        """(B, L, 2) share of each level's map that the image covers: valid cells over all cells."""
        return valid_cells / cells

    def place(self, centres: Tensor, sizes: Tensor, origin: Tensor | None, features: int) -> Tensor:
        """(B, S, 2) fractions -> (B, S, features), DETR's sine encoding of a token's place, y before x."""
        return torch.cat([encode_fractions(centres[..., i], features // 2) for i in (1, 0)], dim=-1)

    def linear(self, values: Tensor, sizes: Tensor, origin: Tensor | None = None) -> Tensor:
        """(B, N, 2) fractions -> (B, N, 2) numbers for a linear layer: as they are."""
        return values

    def sine(self, values: Tensor, sizes: Tensor, features: int, origin: Tensor | None = None) -> Tensor:
        """(B, N, C) fractions, x and y alternating -> (B, N, C * features), DETR's sine encoding of each."""
        return encode_fractions(values, features).flatten(-2)

    def anchors(self, memory: Memory) -> Tensor:
        """(B, S, 4) first boxes, Deformable DETR's: 5 % of the image on the finest level, doubling with each."""
        centres = memory.centres()
        side = torch.cat(
            [centres.new_full((h * w, 2), 0.05 * 2.0**level) for level, (h, w) in enumerate(memory.shapes)]
        )
        return torch.cat([centres.clamp(0.01, 0.99), side.clamp(max=0.99).expand_as(centres)], dim=-1)

    def refine(self, boxes: Tensor, delta: Tensor) -> Tensor:
        """(..., 2 | 4) points or boxes and (..., 4) corrections -> (..., 4): added in inverse-sigmoid space.

        A point has no size yet, so its size is the correction itself.
        """
        known = torch.logit(boxes, eps=1e-5)
        if boxes.shape[-1] == 2:
            known = torch.cat([known, torch.zeros_like(known)], dim=-1)
        return torch.sigmoid(known + delta)


class PixelGeometry:
    """Pixels: the same function on a tile of any size."""

    def ratios(self, cells: Tensor, valid_cells: Tensor, strides: Tensor, sizes: Tensor) -> Tensor:
        """Exactly the image's pixels over the pixels that the map stands for."""
        return sizes[:, None] / (cells * strides)

    def place(self, centres: Tensor, sizes: Tensor, origin: Tensor | None, features: int) -> Tensor:
        """Sine encoding of pixels."""
        pixels = self._pixels(centres, sizes, origin)
        return torch.cat([encode_pixels(pixels[..., i], features // 2) for i in (1, 0)], dim=-1)

    def linear(self, values: Tensor, sizes: Tensor, origin: Tensor | None = None) -> Tensor:
        """Multiples of 256 px."""
        return self._pixels(values, sizes, origin) / UNIT_PX

    def sine(self, values: Tensor, sizes: Tensor, features: int, origin: Tensor | None = None) -> Tensor:
        """Sine encoding of each length in pixels."""
        return encode_pixels(self._pixels(values, sizes, origin), features).flatten(-2)

    def _pixels(self, values: Tensor, sizes: Tensor, origin: Tensor | None) -> Tensor:
        pairs = values.unflatten(-1, (-1, 2)) * sizes[:, None, None]
        if origin is not None:
            shift = torch.zeros_like(pairs)
            shift[..., 0, :] = origin[:, None]  # the first pair is a place, others are sizes
            pairs = pairs + shift
        return pairs.flatten(-2)

    def anchors(self, memory: Memory) -> Tensor:
        """Two cells wide: 16 px (8 um at 0.5 mpp) at stride 8, about a nucleus."""
        centres = memory.centres()
        side = torch.cat(
            [
                centres.new_full((h * w, 2), ANCHOR * stride)
                for stride, (h, w) in zip(memory.strides, memory.shapes, strict=True)
            ]
        )
        return torch.cat([centres, side / memory.sizes[:, None]], dim=-1)

    def refine(self, boxes: Tensor, delta: Tensor) -> Tensor:
        """Move by a multiple of the box's size, resize by a factor (R-CNN's parametrisation)."""
        centre, side = boxes.split(2, dim=-1)
        move, grow = delta.split(2, dim=-1)
        return torch.cat([centre + move * side, side * grow.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp()], dim=-1)


Geometry = ImageGeometry | PixelGeometry


def geometry(config: ModelConfig) -> Geometry:
    """The convention a config asks for."""
    return PixelGeometry() if config.coordinates == "pixels" else ImageGeometry()
