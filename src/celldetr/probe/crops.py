"""Embeddings of crops: squares around nuclei through EfficientNet-Lite0 of ImageNet, pooled before the classifier.

Its BatchNorm is folded as in our own inference: what is compared is the approach, not who optimised more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from celldetr.data.sample import Sample
from celldetr.model.backbone import imagenet_lite0
from celldetr.model.folding import fold_batchnorm

CROP_PX = 64  # side at the model's mpp: at 0.4 a field of 25.6 um, a nucleus and what touches it
BATCH_PIXELS = 64 * 64 * 64  # crops that go through the network together; larger batches are no faster on a CPU


def cut(image: NDArray[np.uint8], boxes: NDArray[np.floating], size: int) -> NDArray[np.uint8]:
    """(H, W, 3) image, (N, 4) boxes xyxy -> (N, size, size, 3) squares around their centres, mirrored at the border."""
    half = size // 2
    wide = np.pad(image, ((half, size - half), (half, size - half), (0, 0)), mode="symmetric")
    height, width = image.shape[:2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    left, top = np.clip(np.floor(centre), 0, [width - 1, height - 1]).astype(np.intp).reshape(-1, 2).T
    squares = np.lib.stride_tricks.sliding_window_view(wide, (size, size), axis=(0, 1))
    return np.ascontiguousarray(squares[top, left].transpose(0, 2, 3, 1))


class _Body(nn.Module):
    """The shape in which ``fold_batchnorm`` takes a network."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body


def lite0() -> nn.Module:
    """EfficientNet-Lite0 of ImageNet without its classifier.

    Raises:
        InputError: the ImageNet weights are not installed.
    """
    network: Any = imagenet_lite0()
    network.reset_classifier(0)
    folded = cast(Any, fold_batchnorm(cast(Any, _Body(network.to(memory_format=torch.channels_last)))))
    return cast(nn.Module, folded.body)


class CropEmbedder:
    """(N, d) pooled features of the crops of an image's boxes.

    Args:
        size: px to which crops of ``CROP_PX`` are enlarged.
        device: where it runs.
        network: of crops (N, 3, size, size) to features (N, d), or to tokens (N, T, d), of which the first is the
            feature; None: ``lite0``.
        mean, std: that it wants its input normalised by, of values in [0, 1].

    Raises:
        InputError: the ImageNet weights are not installed.
    """

    def __init__(
        self,
        size: int,
        device: torch.device,
        network: nn.Module | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        self.network = (lite0() if network is None else network).eval().to(device)
        self.size, self.device = size, device
        self.batch = max(1, BATCH_PIXELS // size**2)
        self.mean, self.std = (torch.tensor(values, device=device)[:, None, None] * 255 for values in (mean, std))

    @torch.inference_mode()
    def __call__(self, sample: Sample) -> NDArray[np.float32]:
        """Embed the nuclei of a labelled image."""
        crops = cut(sample.image, sample.boxes, CROP_PX)
        starts = range(0, max(len(crops), 1), self.batch)
        return np.concatenate([self._embed(crops[start : start + self.batch]) for start in starts])

    def _embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        images: Tensor = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float()
        images = (images - self.mean) / self.std
        if self.size != CROP_PX:
            images = functional.interpolate(images, size=(self.size,) * 2, mode="bilinear", align_corners=False)
        features: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return (features[:, 0] if features.ndim == 3 else features).float().cpu().numpy()
