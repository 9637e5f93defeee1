"""Hungarian matching of queries to nuclei, each image on its own Q x N matrix (DETR; costs of method section 3)."""

from __future__ import annotations

from collections.abc import Sequence

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
) -> list[Match]:
    """Assign each nucleus its own query, at least total cost.

    Args:
        logits: (B, Q) objectness.
        boxes: (B, Q, 4) cxcywh fractions.
        targets: B tensors (N_b, 4), cxcywh fractions; N_b may be 0.
        w_class, w_l1, w_giou: weights of the costs.

    Returns:
        per image min(Q, N_b) pairs, on the device of ``boxes``.
    """
    matches = []
    for score, box, target in zip(logits.float(), boxes.float(), targets, strict=True):
        if not len(target):
            empty = torch.zeros(0, dtype=torch.long, device=boxes.device)
            matches.append((empty, empty))
            continue
        target = target.float()
        cost = (
            w_class * focal_cost(score)[:, None]
            + w_l1 * torch.cdist(box, target, p=1)
            - w_giou * generalised_iou(cxcywh_to_xyxy(box)[:, None], cxcywh_to_xyxy(target)[None])
        )
        # A diverged query must not stop the run, nor padding's huge costs the precision: both are nobody's choice.
        rows, columns = linear_sum_assignment(cost.nan_to_num(nan=WORST).clamp(-WORST, WORST).cpu().numpy())
        matches.append((torch.as_tensor(rows, device=boxes.device), torch.as_tensor(columns, device=boxes.device)))
    return matches


def flatten(matches: Sequence[Match]) -> tuple[Tensor, Tensor]:
    """Matches of a batch -> (M,) image and (M,) query indices of all matched queries, in order."""
    image = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(matches)])
    return image, torch.cat([query for query, _ in matches])


def gather(matches: Sequence[Match], targets: Sequence[Tensor]) -> Tensor:
    """What the matched queries should be: targets of each image, in the order of ``flatten``."""
    return torch.cat([target[index] for (_, index), target in zip(matches, targets, strict=True)])
