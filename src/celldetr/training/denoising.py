"""Denoising queries (DN-DETR, CVPR 2022; DINO, ICLR 2023), without classes: perturbed true boxes as extra queries.

Of every nucleus the decoder gets a box a little off, which it refines to the nucleus, and one far off, which is
background. Neither needs matching. Their contents are those of the tokens at their centres, so no weight is needed in
training only. In attention each group sees itself alone, and the decoder's own queries see none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from celldetr.data.dataset import Targets
from celldetr.model.detection import ExtraQueries
from celldetr.model.representation import hide_padding
from celldetr.training.box_sources import jitter_boxes

NEAR, FAR = (0.0, 0.4), (0.6, 0.9)  # of a box's half side (centre) or side (size); what lies between teaches neither


@dataclass(frozen=True)
class DenoisingQueries:
    """Extra queries of a batch: G groups of N boxes near a nucleus and N far from it, N that of the fullest image.

    Attributes:
        queries: M = G * 2 * N boxes an image, and which may see which.
        boxes: (B, M, 4) the true box that each was made from.
        near: (B, M) True for the positives.
        real: (B, M) False for padding.
    """

    queries: ExtraQueries
    boxes: Tensor
    near: Tensor
    real: Tensor


def denoising_queries(
    targets: Sequence[Targets], groups: int, generators: Sequence[torch.Generator]
) -> DenoisingQueries | None:
    """Perturb the true boxes of B images; None if there is no nucleus in the batch.

    Args:
        targets: B.
        groups: how many pairs, near and far, each nucleus gets.
        generators: B sources of randomness, on the CPU.
    """
    most = max(len(each) for each in targets)
    if most == 0:
        return None
    true = pad_sequence([each.boxes for each in targets], batch_first=True)
    start = []
    for image, generator in zip(targets, generators, strict=True):
        copies = image.boxes.cpu().expand(groups, -1, -1)
        pair = [jitter_boxes(copies, *bounds, generator=generator) for bounds in (NEAR, FAR)]
        noisy = torch.full((groups, 2, most, 4), 0.5)  # padding is somewhere, with a size
        noisy[:, :, : len(image)] = torch.stack(pair, dim=1)
        start.append(noisy.flatten(0, 2))
    count = torch.tensor([len(each) for each in targets])
    real = (torch.arange(most) < count[:, None]).repeat(1, 2 * groups)
    near = torch.tensor([True, False]).repeat_interleave(most).repeat(groups).expand_as(real)
    group = torch.arange(groups).repeat_interleave(2 * most)
    blocked = hide_padding(real) | (group[:, None] != group)
    device = true.device
    queries = ExtraQueries(torch.stack(start).to(device), blocked.to(device))
    return DenoisingQueries(queries, true.repeat(1, 2 * groups, 1), near.to(device), real.to(device))
