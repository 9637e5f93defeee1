"""The outline head: radii (``celldetr.outlines``) of the nuclei in boxes, from the pixels around each box.

Not from the embedding, nor from the features that embeddings are read from: types do not care for orientation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from celldetr.model.memory import as_tensor
from celldetr.outlines import RADII, directions

SIDE = 16  # pixels of a patch
REACH = 1.2  # sides of a patch, in sides of the box
LARGEST = 1.5  # radius; the corner of the box is at sqrt(2)
CELLS_AT_ONCE = 512  # patches that are in memory together


class OutlineHead(nn.Module):
    """Radii of boxes, from the pixels of their images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(24, 32, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 48, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(48 * (SIDE // 4) ** 2, 64),
            nn.ReLU(inplace=True),
        )
        self.radii = nn.Linear(64, RADII)
        nn.init.zeros_(self.radii.weight)  # begins with the ellipse of the box
        nn.init.constant_(self.radii.bias, math.log(1 / (LARGEST - 1)))

    def forward(self, images: Tensor, boxes: Tensor, sizes: Tensor) -> Tensor:
        """Outlines of boxes.

        Args:
            images: (B, 3, H, W) normalised.
            boxes: (B, N, 4) cxcywh, fractions of each image's valid region.
            sizes: (B, 2) valid width and height, pixels.

        Returns:
            (B, N, RADII), between 0 and ``LARGEST``.
        """
        batch, count = boxes.shape[:2]
        if count == 0:
            return boxes.new_zeros(batch, 0, RADII)
        # A graph that is recorded for ONNX has no loops: it takes all at once.
        groups = [boxes] if torch.onnx.is_in_onnx_export() else boxes.split(max(1, CELLS_AT_ONCE // batch), dim=1)
        parts = [self.radii(self.layers(patches(images, part, sizes).flatten(0, 1))) for part in groups]
        radii = torch.cat([part.view(batch, -1, RADII) for part in parts], dim=1)
        return LARGEST * radii.float().sigmoid()


def patches(images: Tensor, boxes: Tensor, sizes: Tensor) -> Tensor:
    """The pixels around boxes, bilinear, each box at one size; arguments as of ``OutlineHead``.

    Returns:
        (B, N, 3, SIDE, SIDE); beyond the image its nearest pixel.
    """
    batch, count = boxes.shape[:2]
    height, width = images.shape[2:]
    valid = (sizes / as_tensor([(width, height)], like=sizes))[:, None]  # share of the padded image
    centre, half = boxes[..., :2] * valid, boxes[..., 2:] * valid * (REACH / 2)
    steps = (torch.arange(SIDE, device=boxes.device, dtype=boxes.dtype) + 0.5) * (2 / SIDE) - 1
    frame = torch.stack([steps.expand(SIDE, SIDE), steps[:, None].expand(SIDE, SIDE)], dim=-1)  # (SIDE, SIDE, 2)
    grid = (centre[:, :, None, None] + half[:, :, None, None] * frame) * 2 - 1
    grid = grid.view(batch, count * SIDE, SIDE, 2).to(images.dtype)
    sampled = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return sampled.view(batch, -1, count, SIDE, SIDE).transpose(1, 2)


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
