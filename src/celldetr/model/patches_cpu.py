"""The Numba kernel of ``outline.patches``: the same pixels without a grid in memory, channels last as convolutions
want them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from celldetr.model.kernels import run_in_pieces, specialise


def sample_patches(images: Tensor, boxes: Tensor, shares: Tensor, side: int, reach: float) -> Tensor:
    """Bilinear samples around boxes.

    Args:
        images: (B, C, H, W) float32.
        boxes: (B, N, 4) cxcywh, fractions of each image's valid region.
        shares: (B, 2) of the width and the height that is valid.
        side, reach: of a patch, in samples and in sides of the box.

    Returns:
        (B, N, C, side, side) float32, channels last in memory; beyond the image its nearest pixel.
    """
    batch, count = boxes.shape[:2]
    out = np.empty((batch * count, side, side, images.shape[1]), np.float32)
    scale = shares.float().repeat(1, 2)[:, None]
    arguments = (images.numpy(), (boxes.float() * scale).reshape(-1, 4).numpy(), np.float32(reach), out)
    run = _compiled()
    run_in_pieces(lambda start, stop: run(*arguments, start, stop), batch * count, torch.get_num_threads())
    return torch.from_numpy(out).view(batch, count, side, side, -1).permute(0, 1, 4, 2, 3)


def _kernel(images, boxes, reach, out, start, stop):  # type: ignore[no-untyped-def]
    """Write the patches start <= number < stop."""
    batch, channels, height, width = images.shape
    side, count = out.shape[1], len(out) // batch
    # Unsigned: of a signed index Numba asks each time whether it counts from the end.
    low, high, part = np.empty(side, np.uint32), np.empty(side, np.uint32), np.empty(side, np.float32)
    line = np.empty((channels, width), np.float32)
    for number in range(start, stop):
        image, box = images[number // count], boxes[number]
        for i in range(side):
            step = ((i + np.float32(0.5)) * np.float32(2 / side) - np.float32(1)) * reach * np.float32(0.5)
            x = min(max((box[0] + box[2] * step) * width - np.float32(0.5), np.float32(0)), np.float32(width - 1))
            low[i] = np.uint32(x)
            high[i], part[i] = min(low[i] + np.uint32(1), np.uint32(width - 1)), x - low[i]
        for row in range(side):
            step = ((row + np.float32(0.5)) * np.float32(2 / side) - np.float32(1)) * reach * np.float32(0.5)
            y = min(max((box[1] + box[3] * step) * height - np.float32(0.5), np.float32(0)), np.float32(height - 1))
            top = int(y)
            bottom, down = min(top + 1, height - 1), y - top
            for c in range(channels):
                above, below = image[c, top], image[c, bottom]
                for column in range(low[0], high[side - 1] + np.uint32(1)):
                    line[c, column] = above[column] + down * (below[column] - above[column])
            for i in range(side):
                for c in range(channels):
                    out[number, row, i, c] = line[c, low[i]] + part[i] * (line[c, high[i]] - line[c, low[i]])


@cache
def _compiled() -> Any:
    return specialise(_kernel, "float32")
