"""Hungarian matching of queries to nuclei, each image on its own Q x N matrix (DETR)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from celldetr.data.dataset import Targets

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss (Lin et al., ICCV 2017), in the cost as in the loss
WORST = 1e6  # bound of a cost; real ones are below a hundred
Match = tuple[Tensor, Tensor]  # (M,) query indices and (M,) nucleus indices of one image


@dataclass(frozen=True)
class HungarianMatcher:
    """Assigns each nucleus a query of its own, at least total cost.

    Attributes:
        w_class, w_l1, w_giou: weights of the costs: focal, L1 of the boxes, generalised IoU.
    """

    w_class: float = 2.0
    w_l1: float = 5.0
    w_giou: float = 2.0

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, targets: Sequence[Targets]) -> list[list[Match]]:
        """Match the queries of L layers, each layer on its own.

        Args:
            logits: (L, B, Q) objectness.
            boxes: (L, B, Q, 4) cxcywh fractions.
            targets: B, of N_b nuclei; N_b may be 0.

        Returns:
            per layer and image min(Q, N_b) pairs, on the device of ``boxes``.
        """
        boxes, focal = boxes.float(), self.w_class * focal_cost(logits.float())
        corners, costs = box_convert(boxes, "cxcywh", "xyxy"), []
        for b, each in enumerate(targets):
            true = each.boxes.float()
            l1 = torch.cdist(boxes[:, b], true.expand(len(boxes), -1, -1), p=1)
            giou = generalized_box_iou(corners[:, b].flatten(0, 1), box_convert(true, "cxcywh", "xyxy"))
            # A diverged query must not stop the run, nor the huge costs of padding the precision: neither is chosen.
            cost = focal[:, b, :, None] + self.w_l1 * l1 - self.w_giou * giou.view_as(l1)
            costs.append(cost.nan_to_num(nan=WORST).clamp(-WORST, WORST))
        on_cpu = torch.cat([cost.flatten() for cost in costs]).cpu()  # one transfer
        sizes = [cost.numel() for cost in costs]
        tables = [part.view(cost.shape).numpy() for part, cost in zip(on_cpu.split(sizes), costs, strict=True)]
        pairs = [[linear_sum_assignment(table[layer]) for table in tables] for layer in range(len(boxes))]
        indices = np.concatenate([np.stack(pair) for layer in pairs for pair in layer], axis=1)
        on_device = torch.from_numpy(indices).to(boxes.device)
        parts = iter(on_device.split([len(rows) for layer in pairs for rows, _ in layer], dim=1))
        return [[(part[0], part[1]) for part in islice(parts, len(targets))] for _ in pairs]


def focal_cost(logits: Tensor) -> Tensor:
    """Cost of calling a query a nucleus: focal loss as one, minus focal loss as none. Any shape -> same shape."""
    p = logits.sigmoid()
    positive = ALPHA * (1 - p) ** GAMMA * -torch.nn.functional.logsigmoid(logits)
    negative = (1 - ALPHA) * p**GAMMA * -torch.nn.functional.logsigmoid(-logits)
    return positive - negative
