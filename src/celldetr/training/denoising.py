"""Contrastive denoising (DN-DETR, CVPR 2022; DINO, ICLR 2023), without classes: true boxes, perturbed, as queries.

Beside its own queries the decoder gets, of every nucleus, a box a little off, from which it is to find the nucleus, and
one far off, which it is to call none. No matching stands between these and what they should become, so they teach from
the first step on what a good query ends as. Their contents are those of the queries that would be at their place, so
there is no weight that only training needs. In attention a group sees itself alone, and the decoder's own queries see
none of them: what is detected does not depend on whether they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from celldetr.model.detection import DetectionOutput, ExtraQueries
from celldetr.model.representation import hide_padding
from celldetr.training.box_noise import jitter_boxes
from celldetr.training.criterion import Losses, box_losses, sigmoid_focal

NEAR, FAR = (0.0, 0.4), (0.6, 0.9)  # of a box's half side (centre) or side (size); what lies between teaches neither


@dataclass(frozen=True)
class Noised:
    """Extra queries of a batch: G groups of N boxes that are near a nucleus and N that are far, N of the fullest image.

    Attributes:
        queries: M = G * 2 * N boxes an image, and which may see which.
        targets: (B, M, 4) the true box that each was made from.
        near: (B, M) True for those that are to find it.
        real: (B, M) False for padding.
    """

    queries: ExtraQueries
    targets: Tensor
    near: Tensor
    real: Tensor


def noised_queries(boxes: Sequence[Tensor], groups: int, generators: Sequence[torch.Generator]) -> Noised | None:
    """Perturb the true boxes of a batch.

    Args:
        boxes: B tensors (N_b, 4), cxcywh fractions.
        groups: how many pairs, near and far, each nucleus gets.
        generators: B sources of randomness, on the CPU.

    Returns:
        the queries; None if there is no nucleus in the batch.
    """
    most = max(len(each) for each in boxes)
    if most == 0:
        return None
    true = pad_sequence(list(boxes), batch_first=True)
    start = []
    for image, chance in zip(boxes, generators, strict=True):
        copies = image.cpu().expand(groups, -1, -1)
        pair = [jitter_boxes(copies, *bounds, generator=chance) for bounds in (NEAR, FAR)]
        noisy = torch.full((groups, 2, most, 4), 0.5)  # padding is somewhere, with a size
        noisy[:, :, : len(image)] = torch.stack(pair, dim=1)
        start.append(noisy.flatten(0, 2))
    count = torch.tensor([len(each) for each in boxes])
    real = (torch.arange(most) < count[:, None]).repeat(1, 2 * groups)
    near = torch.tensor([True, False]).repeat_interleave(most).repeat(groups).expand_as(real)
    group = torch.arange(groups).repeat_interleave(2 * most)
    blocked = hide_padding(real) | (group[:, None] != group)
    to = true.device
    queries = ExtraQueries(torch.stack(start).to(to), blocked.to(to))
    return Noised(queries, true.repeat(1, 2 * groups, 1), near.to(to), real.to(to))


def denoising_losses(found: DetectionOutput, noised: Noised | None, nuclei: float, groups: int) -> list[Losses]:
    """Objectness, L1 and GIoU of each decoder layer; as many terms without a nucleus, each 0.

    Args:
        found: what became of the decoder's own queries, and of the extra ones if there were any.
        noised: what those were; None: there were none.
        nuclei: ``normaliser`` of the nuclei in the batch.
        groups: of noised boxes; the losses are means over them.
    """
    if noised is None:
        zero = found.last.logits.sum() * 0
        return [{"class": zero, "l1": zero, "giou": zero} for _ in found.layers]
    wanted = noised.near & noised.real
    losses = []
    for layer in found.extra:
        focal = sigmoid_focal(layer.logits, wanted.to(layer.logits.dtype)) * noised.real
        l1, giou = box_losses(layer.boxes[wanted], noised.targets[wanted], nuclei * groups)
        losses.append({"class": focal.sum() / (nuclei * groups), "l1": l1, "giou": giou})
    return losses
