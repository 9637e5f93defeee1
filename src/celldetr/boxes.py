"""Box forms used everywhere; conversions and overlaps are those of ``torchvision.ops``.

Two forms exist and names tell them apart: ``cxcywh`` boxes are normalised to their image (the network's form), ``xyxy``
boxes are absolute pixels (the form of data and slides).
"""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import box_convert


def normalise_boxes(boxes: Tensor, width: float, height: float) -> Tensor:
    """(N, 4) absolute xyxy in pixels -> (N, 4) cxcywh as fractions of an image of ``width`` x ``height`` pixels.

    >>> import torch
    >>> normalise_boxes(torch.tensor([[10.0, 20.0, 30.0, 60.0]]), 100, 100).tolist()
    [[0.20000000298023224, 0.4000000059604645, 0.20000000298023224, 0.4000000059604645]]
    """
    return box_convert(boxes, "xyxy", "cxcywh") / boxes.new_tensor([width, height, width, height])
