"""Losses of a labelled batch (DETR's, with focal objectness and types), and dense supervision of the encoder's scores.

Each returns sums divided by a count of the whole batch (``normaliser``), so that a batch that is split over processes
gives the same gradients as a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from celldetr.boxes import cxcywh_to_xyxy, generalised_iou
from celldetr.model.detection import Detections
from celldetr.training.matcher import ALPHA, GAMMA, Match, flatten, gather
from celldetr.training.processes import normaliser

Losses = dict[str, Tensor]


def sigmoid_focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017), alpha 0.25, gamma 2, of each element; same shape as ``logits``."""
    p = logits.sigmoid()
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_true = p * targets + (1 - p) * (1 - targets)
    alpha = ALPHA * targets + (1 - ALPHA) * (1 - targets)
    return alpha * (1 - p_true) ** GAMMA * cross_entropy


def box_losses(boxes: Tensor, targets: Tensor, nuclei: float) -> tuple[Tensor, Tensor]:
    """L1 and GIoU loss of matched boxes (..., M, 4), cxcywh fractions, (...) sums divided by ``nuclei``."""
    l1 = (boxes - targets).abs().sum((-2, -1)) / nuclei
    giou = (1 - generalised_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets))).sum(-1) / nuclei
    return l1, giou


def detection_losses(
    found: Detections, targets: Sequence[Tensor], matches: Sequence[Sequence[Match]], nuclei: float
) -> list[Losses]:
    """One-to-one losses of each of L layers.

    Args:
        found: boxes (L, B, Q, 4) and logits (L, B, Q).
        targets: B tensors (N_b, 4), cxcywh fractions.
        matches: from ``match``.
        nuclei: what the sums are divided by: ``normaliser`` of the nuclei in the batch.
    """
    picked = [flatten(layer) for layer in matches]  # as many in each layer
    image, query = (torch.stack(parts) for parts in zip(*picked, strict=True))
    layer = torch.arange(len(matches), device=image.device)[:, None]
    wanted = torch.zeros_like(found.logits)
    wanted[layer, image, query] = 1.0
    real = found.logits > torch.finfo(found.logits.dtype).min  # padding does not take part
    objectness = (sigmoid_focal(found.logits, wanted) * real).sum((1, 2)) / nuclei
    true = torch.stack([gather(each, targets) for each in matches])
    l1, giou = box_losses(found.boxes[layer, image, query], true, nuclei)
    terms = zip(objectness.unbind(), l1.unbind(), giou.unbind(), strict=True)
    return [dict(zip(("class", "l1", "giou"), values, strict=True)) for values in terms]


def dense_losses(found: Detections, anchors: Tensor, targets: Sequence[Tensor], sizes: Tensor, nuclei: float) -> Losses:
    """One-to-many losses of the tokens that compete to become queries.

    One-to-one matching teaches one token in a hundred. Here the token nearest to a nucleus is wanted, the tokens around
    it are forgiven by a Gaussian of the nucleus' size (CornerNet / CenterNet's penalty-reduced focal loss), so that the
    best-scoring tokens are the centres of *different* nuclei; and every token inside a nucleus learns its box.

    Args:
        found: proposals of T tokens, boxes (B, T, 4), logits (B, T).
        anchors: (B, T, 4) the boxes they started from, cxcywh fractions.
        targets: B tensors (N_b, 4), cxcywh fractions.
        sizes: (B, 2) image sizes in pixels.
        nuclei: as in ``detection_losses``.
    """
    heat = torch.zeros_like(found.logits)
    real = found.logits > torch.finfo(found.logits.dtype).min  # padding does not take part
    picked_boxes, picked_targets = [], []
    for b, target in enumerate(targets):
        if not len(target):
            continue
        # (T, N) pixels along x and y; coordinates apart, because operations on pairs take several times as long.
        scaled, size = anchors[b, :, :2] * sizes[b], target * sizes[b].repeat(2)
        x, y = (scaled[:, None, axis] - size[None, :, axis] for axis in (0, 1))
        half = (size[:, 2:] / 2).clamp(min=2.0)
        across, down = x / half[:, 0], y / half[:, 1]  # 1 on the border of the box
        closeness, nearest = (across.square() + down.square()).min(dim=1)
        heat[b] = torch.exp(-2.0 * closeness)  # sigma is half the half side
        squared = (x.square() + y.square()).masked_fill(~real[b, :, None], torch.inf)
        centres = squared.argmin(dim=0)  # (N,) token of each nucleus
        heat[b, centres] = 1.0
        token = torch.arange(len(nearest), device=nearest.device)
        inside = torch.maximum(across[token, nearest].abs(), down[token, nearest].abs()) < 0.8
        inside[centres] = True
        inside &= real[b]
        picked_boxes.append(found.boxes[b, inside])
        picked_targets.append(target[nearest[inside]])
    p = found.logits.sigmoid()
    wanted = heat == 1.0
    positive = (1 - p) ** 2 * -functional.logsigmoid(found.logits)
    negative = (1 - heat) ** 4 * p**2 * -functional.logsigmoid(-found.logits)
    objectness = torch.where(wanted, positive, negative)[real].sum() / nuclei
    # Averaged over the tokens, so that the sum weighs as much as that of the one-to-one losses does.
    picked = normaliser(sum(len(boxes) for boxes in picked_boxes), found.boxes.device)
    if not picked_boxes:
        zero = found.boxes.sum() * 0
        return {"class": objectness, "l1": zero, "giou": zero}
    l1, giou = box_losses(torch.cat(picked_boxes), torch.cat(picked_targets), picked)
    return {"class": objectness, "l1": l1, "giou": giou}


def type_loss(
    logits: Tensor, types: Tensor, weights: Tensor, labelled: float, confidence: Tensor | None = None
) -> Tensor:
    """Sigmoid focal loss of types; cells of unknown type (-1) are left out.

    Args:
        logits: (M, K).
        types: (M,) index of the type, or -1.
        weights: (K,) weight of a cell of each type.
        labelled: what the sum is divided by: ``normaliser`` of the cells of known type in the batch, or of the sum of
            their confidences: so a set of equally doubtful cells is learned from as one of sure cells is.
        confidence: (M,) what each cell weighs, in [0, 1]; None: 1.
    """
    known = types >= 0
    logits, types = logits[known], types[known]
    wanted = functional.one_hot(types, logits.shape[-1]).to(logits.dtype)
    weight = weights[types, None]
    if confidence is not None:
        weight = weight * confidence[known, None]
    return (sigmoid_focal(logits, wanted) * weight).sum() / labelled


def composition_loss(logits: Tensor, spots: Tensor, compositions: Tensor, taught: float) -> Tensor:
    """KL(composition || mean softmax over the nuclei of a spot), summed over the spots that have nuclei.

    Args:
        logits: (M, K) of nuclei.
        spots: (M,) the spot of each nucleus, or -1.
        compositions: (S, K), share of each type.
        taught: what the sum is divided by: ``normaliser`` of the spots with nuclei in the batch.
    """
    inside = spots >= 0
    exact = torch.promote_types(logits.dtype, torch.float32)
    spots, log_p = spots[inside], logits[inside].to(exact).log_softmax(-1)
    if not len(spots):
        return logits.sum() * 0
    there, spots = spots.unique(return_inverse=True)
    wanted = compositions[there].to(log_p.dtype)
    index = spots[:, None].expand_as(log_p)
    # Sums of probabilities that may all be too small for a float: relative to the largest of each spot and type.
    top = log_p.detach().new_full(wanted.shape, -torch.inf).scatter_reduce(0, index, log_p.detach(), "amax")
    sums = torch.zeros_like(wanted).index_add(0, spots, (log_p - top[spots]).exp())
    count = torch.bincount(spots, minlength=len(there)).to(log_p.dtype)
    mean = top + sums.log() - count.log()[:, None]
    return (torch.special.xlogy(wanted, wanted) - wanted * mean).sum() / taught


def no_type_loss(logits: Tensor, nuclei: float) -> Tensor:
    """Sigmoid focal loss of boxes (M, K) that are to look like no type, divided by ``nuclei``."""
    return sigmoid_focal(logits, torch.zeros_like(logits)).sum() / nuclei


def balance(counts: Sequence[int], exponent: float) -> Tensor:
    """(K,) type weights: inverse frequency to the power ``exponent``, averaging 1 over the cells.

    Types with no cell get the weight of the rarest one. ``exponent=0`` gives ones.
    """
    count = torch.tensor(counts, dtype=torch.float32)
    present = count[count > 0]
    if not len(present):
        return torch.ones(len(count))
    weight = count.clamp(min=float(present.min())) ** -exponent
    return weight * count.sum() / (weight * count).sum()
