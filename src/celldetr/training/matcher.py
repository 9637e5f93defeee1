"""Hungarian matching of queries to nuclei, each image on its own Q x N matrix (DETR; costs of method section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from celldetr.boxes import cxcywh_to_xyxy, generalised_iou

ALPHA, GAMMA = 0.25, 2.0
WORST = 1e6  # bound of a cost; real ones are below a hundred
Match = tuple[Tensor, Tensor]  # (M,) query indices and (M,) nucleus indices of one image


def focal_cost(logits: Tensor) -> Tensor:
    """Cost of calling a query a nucleus: focal loss as one, minus focal loss as none. Any shape -> same shape."""
    p = logits.sigmoid()
    positive = ALPHA * (1 - p) ** GAMMA * -torch.nn.functional.logsigmoid(logits)
    negative = (1 - ALPHA) * p**GAMMA * -torch.nn.functional.logsigmoid(-logits)
    return positive - negative


@torch.no_grad()
def match(
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[Tensor],
    *,
    w_class: float = 2.0,
    w_l1: float = 5.0,
    w_giou: float = 2.0,
) -> list[list[Match]]:
    """Assign each nucleus its own query of each layer, at least total cost.

    Args:
        logits: (L, B, Q) objectness of L layers.
        boxes: (L, B, Q, 4) cxcywh fractions.
        targets: B tensors (N_b, 4), cxcywh fractions; N_b may be 0.
        w_class, w_l1, w_giou: weights of the costs.

    Returns:
        per layer and image min(Q, N_b) pairs, on the device of ``boxes``.
    """
    boxes, focal = boxes.float(), w_class * focal_cost(logits.float())
    corners, costs = cxcywh_to_xyxy(boxes), []
    for b, target in enumerate(target.float() for target in targets):
        apart = torch.cdist(boxes[:, b], target.expand(len(boxes), -1, -1), p=1)
        overlap = generalised_iou(corners[:, b, :, None], cxcywh_to_xyxy(target))
        # A diverged query must not stop the run, nor padding's huge costs the precision: both are nobody's choice.
        cost = focal[:, b, :, None] + w_l1 * apart - w_giou * overlap
        costs.append(cost.nan_to_num(nan=WORST).clamp(-WORST, WORST))
    on_cpu = torch.cat([cost.flatten() for cost in costs]).cpu()  # one transfer
    sizes = [cost.numel() for cost in costs]
    tables = [part.view(cost.shape).numpy() for part, cost in zip(on_cpu.split(sizes), costs, strict=True)]
    pairs = [[linear_sum_assignment(table[layer]) for table in tables] for layer in range(len(boxes))]
    indices = np.concatenate([np.stack(pair) for layer in pairs for pair in layer], axis=1)
    on_device = torch.from_numpy(indices).to(boxes.device)
    parts = iter(on_device.split([len(rows) for layer in pairs for rows, _ in layer], dim=1))
    return [[(part[0], part[1]) for part in islice(parts, len(targets))] for _ in pairs]


def flatten(matches: Sequence[Match]) -> tuple[Tensor, Tensor]:
    """Matches of a batch -> (M,) image and (M,) query indices of all matched queries, in order."""
    image = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(matches)])
    return image, torch.cat([query for query, _ in matches])


def gather(matches: Sequence[Match], targets: Sequence[Tensor]) -> Tensor:
    """What the matched queries should be: targets of each image, in the order of ``flatten``."""
    return torch.cat([target[index] for (_, index), target in zip(matches, targets, strict=True)])
