"""Box geometry used everywhere.

Two forms exist and names tell them apart: ``cxcywh`` boxes are normalised to their image (the network's form), ``xyxy``
boxes are absolute pixels (the form of data and slides). Everything here is differentiable and works on empty tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size -> (..., 4) corners, same units.

    >>> cxcywh_to_xyxy(torch.tensor([0.5, 0.5, 0.5, 0.25])).tolist()
    [0.25, 0.375, 0.75, 0.625]
    """
    centre, size = boxes.split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners -> (..., 4) centre and size, same units."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def normalise_boxes(boxes: Tensor, width: float, height: float) -> Tensor:
    """(N, 4) absolute xyxy in pixels -> (N, 4) cxcywh as fractions of an image of ``width`` x ``height`` pixels."""
    return xyxy_to_cxcywh(boxes) / boxes.new_tensor([width, height, width, height])


def absolute_boxes(boxes: Tensor, width: float, height: float) -> Tensor:
    """(..., 4) normalised cxcywh -> (..., 4) absolute xyxy in pixels; the inverse of ``normalise_boxes``."""
    return cxcywh_to_xyxy(boxes * boxes.new_tensor([width, height, width, height]))


def box_area(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy -> (...) area; an inverted box counts as empty."""
    return _area(*boxes.unbind(-1))


def _area(x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor) -> Tensor:
    return (x1 - x0).clamp(min=0) * (y1 - y0).clamp(min=0)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Intersection, union and area of the smallest enclosing box of broadcastable xyxy boxes."""
    # Coordinate by coordinate: on tensors that end in pairs, every operation takes several times as long.
    ax0, ay0, ax1, ay1 = a.unbind(-1)
    bx0, by0, bx1, by1 = b.unbind(-1)
    lower, higher = torch.minimum, torch.maximum
    intersection = _area(higher(ax0, bx0), higher(ay0, by0), lower(ax1, bx1), lower(ay1, by1))
    union = box_area(a) + box_area(b) - intersection
    hull = _area(lower(ax0, bx0), lower(ay0, by0), higher(ax1, bx1), higher(ay1, by1))
    return intersection, union, hull


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of broadcastable xyxy boxes (..., 4) -> (...); 0 where both are empty.

    >>> iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 4.0, 2.0])).item()
    0.25
    """
    intersection, union, _ = _overlap(a, b)
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019) of broadcastable xyxy boxes (..., 4) -> (...) in [-1, 1]."""
    intersection, union, hull = _overlap(a, b)
    tiny = torch.finfo(union.dtype).tiny
    return intersection / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of ``x`` clipped to [eps, 1 - eps], the space in which boxes are refined."""
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
