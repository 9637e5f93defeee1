"""The outline head: radii (``celldetr.outlines``) of the nuclei in boxes, from the pixels around each box.

Not from the embedding, nor from the features that embeddings are read from: types do not care for orientation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from celldetr.model.memory import as_tensor
from celldetr.model.patches_cpu import sample_patches
from celldetr.outlines import RADII, directions

SIDE = 16  # pixels of a patch
REACH = 1.2  # sides of a patch, in sides of the box
LARGEST = 1.5  # radius; the corner of the box is at sqrt(2)
CELLS_AT_ONCE = 1024  # patches that are in memory together


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

    def forward(self, images: Tensor, boxes: Tensor, sizes: Tensor, valid: Tensor | None = None) -> Tensor:
        """Outlines of boxes.

        Args:
            images: (B, 3, H, W) normalised.
            boxes: (B, N, 4) cxcywh, fractions of each image's valid region.
            sizes: (B, 2) valid width and height, pixels.
            valid: (B, N) the boxes whose outlines are wanted; None: all.

        Returns:
            (B, N, RADII), between 0 and ``LARGEST``; 0, or what it is, where it is not wanted.
        """
        batch, count = boxes.shape[:2]
        if count == 0:
            return boxes.new_zeros(batch, 0, RADII)
        if torch.onnx.is_in_onnx_export():  # a recorded graph has no loops: it takes all at once
            return self._draw(images, boxes, sizes).view(batch, -1, RADII)
        step = max(1, CELLS_AT_ONCE // batch)
        masks = [None] * count if valid is None else valid.split(step, dim=1)
        parts = [
            self._draw(images, part, sizes, mask).view(batch, -1, RADII)
            for part, mask in zip(boxes.split(step, dim=1), masks, strict=False)
        ]
        return torch.cat(parts, dim=1)

    def _draw(self, images: Tensor, boxes: Tensor, sizes: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B * N, RADII) outlines of boxes that are in memory together."""
        seen = patches(images, boxes, sizes).flatten(0, 1)
        if valid is None or bool(valid.all()):
            return LARGEST * self.radii(self.layers(seen)).float().sigmoid()
        some = valid.flatten()
        wanted = seen.permute(0, 2, 3, 1)[some].permute(0, 3, 1, 2)  # channels last, as the kernel has them
        radii = LARGEST * self.radii(self.layers(wanted)).float().sigmoid()
        return radii.new_zeros(len(seen), RADII).masked_scatter(some[:, None], radii)


def patches(images: Tensor, boxes: Tensor, sizes: Tensor) -> Tensor:
    """The pixels around boxes, bilinear, each box at one size; arguments as of ``OutlineHead``.

    Returns:
        (B, N, 3, SIDE, SIDE); beyond the image its nearest pixel.
    """
    batch, count = boxes.shape[:2]
    height, width = images.shape[2:]
    valid = sizes / as_tensor([(width, height)], like=sizes)  # share of the padded image
    if _has_kernel(images):
        return sample_patches(images, boxes, valid, SIDE, REACH)
    valid = valid[:, None]
    centre, half = boxes[..., :2] * valid, boxes[..., 2:] * valid * (REACH / 2)
    steps = (torch.arange(SIDE, device=boxes.device, dtype=boxes.dtype) + 0.5) * (2 / SIDE) - 1
    frame = torch.stack([steps.expand(SIDE, SIDE), steps[:, None].expand(SIDE, SIDE)], dim=-1)  # (SIDE, SIDE, 2)
    grid = (centre[:, :, None, None] + half[:, :, None, None] * frame) * 2 - 1
    grid = grid.view(batch, count * SIDE, SIDE, 2).to(images.dtype)
    sampled = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return sampled.view(batch, -1, count, SIDE, SIDE).transpose(1, 2)


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
