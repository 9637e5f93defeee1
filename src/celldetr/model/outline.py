"""The outline head: radii (``celldetr.outlines``) of the nuclei in boxes, from what is in and around each box.

It reads pixels, and the finest tokens of the encoder, from which the box was found: they know better than 20 x 20
pixels where the nucleus ends. Not the embedding, nor the features that embeddings are read from: types do not care for
orientation. Boxes are often too small for large pale nuclei, so it looks and draws beyond them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from celldetr.model.memory import Memory, as_tensor
from celldetr.model.patches_cpu import sample_patches
from celldetr.outlines import RADII, directions

SIDE = 20  # pixels of a patch
REACH = 1.6  # sides of a patch, in sides of the box
LARGEST = 2.0  # radius; the corner of the box is at sqrt(2)
TOKEN_CHANNELS = 16  # that tokens are projected to
CELLS_AT_ONCE = 1024  # patches that are in memory together


class OutlineHead(nn.Module):
    """Radii of boxes, from the pixels of their images and the encoder's tokens, of length ``d_model``."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.pixels = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
        )
        self.tokens = nn.Linear(d_model, TOKEN_CHANNELS)
        self.joint = nn.Sequential(nn.Linear((48 + TOKEN_CHANNELS) * (SIDE // 4) ** 2, 64), nn.ReLU(inplace=True))
        self.radii = nn.Linear(64, RADII)
        nn.init.zeros_(self.radii.weight)  # begins with the ellipse of the box
        nn.init.constant_(self.radii.bias, math.log(1 / (LARGEST - 1)))

    def forward(self, images: Tensor, memory: Memory, boxes: Tensor, valid: Tensor | None = None) -> Tensor:
        """Outlines of boxes.

        Args:
            images: (B, 3, H, W) normalised.
            memory: of the encoder; nothing is learned through it.
            boxes: (B, N, 4) cxcywh, fractions of each image's valid region.
            valid: (B, N) the boxes whose outlines are wanted; None: all.

        Returns:
            (B, N, RADII), between 0 and ``LARGEST``; 0, or what it is, where it is not wanted.
        """
        batch, count = boxes.shape[:2]
        if count == 0:
            return boxes.new_zeros(batch, 0, RADII)
        shares = memory.sizes / as_tensor([(images.shape[3], images.shape[2])], like=memory.sizes)
        (height, width), finest = memory.shapes[0], memory.ratios[:, 0]
        tokens = self.tokens(memory.tokens[:, : height * width].detach()).float()
        tokens = tokens.transpose(1, 2).reshape(batch, TOKEN_CHANNELS, height, width).contiguous()

        def draw(boxes: Tensor, valid: Tensor | None = None) -> Tensor:
            seen = patches(images, boxes, shares, SIDE), patches(tokens, boxes, finest, SIDE // 4)
            return self._draw(*seen, valid).view(batch, -1, RADII)

        if torch.onnx.is_in_onnx_export():  # a recorded graph has no loops: it takes all at once
            return draw(boxes)
        step = max(1, CELLS_AT_ONCE // batch)
        masks = [None] * count if valid is None else valid.split(step, dim=1)
        return torch.cat([draw(*each) for each in zip(boxes.split(step, dim=1), masks, strict=False)], dim=1)

    def _draw(self, pixels: Tensor, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B * N, RADII) outlines from patches (B, N, C, side, side) that are in memory together."""
        count = pixels.shape[0] * pixels.shape[1]
        pixels, tokens = pixels.flatten(0, 1), tokens.flatten(0, 1)
        some = None if valid is None or bool(valid.all()) else valid.flatten()
        if some is not None:  # channels last, as the kernel has them
            pixels, tokens = (x.permute(0, 2, 3, 1)[some].permute(0, 3, 1, 2) for x in (pixels, tokens))
        found = torch.cat([self.pixels(pixels), tokens.relu()], dim=1)
        radii: Tensor = LARGEST * self.radii(self.joint(found.flatten(1))).float().sigmoid()
        return radii if some is None else radii.new_zeros(count, RADII).masked_scatter(some[:, None], radii)


def patches(images: Tensor, boxes: Tensor, shares: Tensor, side: int) -> Tensor:
    """What is around boxes, bilinear, each box at one size.

    Args:
        images: (B, C, H, W) float32, images or maps of them.
        boxes: (B, N, 4) cxcywh, fractions of each image's valid region.
        shares: (B, 2) of the width and the height that is valid.
        side: samples along a side of a patch.

    Returns:
        (B, N, C, side, side), ``REACH`` boxes wide; beyond the image its nearest pixel.
    """
    batch, count = boxes.shape[:2]
    if _has_kernel(images):
        return sample_patches(images, boxes, shares, side, REACH)
    valid = shares[:, None]
    centre, half = boxes[..., :2] * valid, boxes[..., 2:] * valid * (REACH / 2)
    steps = (torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5) * (2 / side) - 1
    frame = torch.stack([steps.expand(side, side), steps[:, None].expand(side, side)], dim=-1)  # (side, side, 2)
    grid = (centre[:, :, None, None] + half[:, :, None, None] * frame) * 2 - 1
    grid = grid.view(batch, count * side, side, 2).to(images.dtype)
    sampled = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return sampled.view(batch, -1, count, side, side).transpose(1, 2)


def _has_kernel(images: Tensor) -> bool:
    """Whether patches are sampled by the kernel: on CPUs, where no graph is recorded."""
    recorded = torch.is_grad_enabled() or torch.onnx.is_in_onnx_export()
    return images.device.type == "cpu" and images.dtype == torch.float32 and not recorded


def radii_around(boxes: Tensor, points: Tensor) -> Tensor:
    """Radii of polygons as seen from boxes that need not be theirs.

    Args:
        boxes: (N, 4) cxcywh.
        points: (N, M, 2) vertices of a polygon each, in the units of the boxes.

    Returns:
        (N, RADII): where the ray in each direction leaves the polygon for the last time; 0 where it misses it.
    """
    frame = (points - boxes[:, None, :2]) / (boxes[:, None, 2:] / 2)  # (N, M, 2), the box is [-1, 1] squared
    start, along = frame[:, None], (frame.roll(-1, dims=1) - frame)[:, None]  # (N, 1, M, 2)
    ray = torch.from_numpy(directions()).to(boxes)[None, :, None]  # (1, RADII, 1, 2)
    across = _cross(ray, along)
    parallel = across.abs() < 1e-9
    across = torch.where(parallel, torch.ones_like(across), across)
    radius, place = _cross(start, along) / across, _cross(start, ray) / across
    # A ray through a vertex must not slip between its two edges: an outline's own vertices lie on its rays.
    hit = ~parallel & (radius >= 0) & (place >= -1e-5) & (place <= 1 + 1e-5)
    return torch.where(hit, radius, torch.zeros_like(radius)).amax(-1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def outline_iou(predicted: Tensor, true: Tensor) -> Tensor:
    """(...,) IoU of outlines (..., RADII) around the same boxes, sector by sector (Polar IoU, PolarMask, CVPR 2020)."""
    low, high = torch.minimum(predicted, true), torch.maximum(predicted, true)
    return low.square().sum(-1) / high.square().sum(-1).clamp(min=1e-6)
