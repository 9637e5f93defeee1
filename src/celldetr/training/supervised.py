"""Supervised training on labelled nuclei: one batch in, one loss out, in any of the modes of method section 2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from celldetr.config import TrainConfig
from celldetr.model.celldetr import CellDETR, Memories
from celldetr.model.detection import DetectionOutput, Detections
from celldetr.model.representation import hide_padding
from celldetr.training.denoising import denoising_losses, noised_queries
from celldetr.training.feeding import Source, feed
from celldetr.training.losses import Losses, dense_losses, detection_losses, no_type_loss, type_loss
from celldetr.training.matching import Match, match
from celldetr.training.processes import normaliser

ORIGIN_PX = 1024.0  # training images lie anywhere in a field of this many pixels


class Supervised(nn.Module):
    """A network with its supervised objective; ``forward`` returns the loss, so that data parallelism can wrap it."""

    type_weights: Tensor

    def __init__(self, network: CellDETR, config: TrainConfig, type_weights: Tensor) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.register_buffer("type_weights", type_weights, persistent=False)

    def forward(
        self, images: Tensor, boxes: Sequence[Tensor], types: Sequence[Tensor], chances: Sequence[torch.Generator]
    ) -> tuple[Tensor, Losses]:
        """Loss of a batch.

        Args:
            images: (B, 3, H, W) uint8.
            boxes: B tensors (N_b, 4), cxcywh fractions; N_b may be 0.
            types: B tensors (N_b,), index of the type or -1.
            chances: B sources of all randomness, one an image, on the CPU.

        Returns:
            the loss, and its parts (detached) by name.
        """
        config, device = self.config, images.device
        origin = torch.stack([torch.rand(2, generator=chance) for chance in chances]).to(device) * ORIGIN_PX
        sizes = images.new_tensor([images.shape[3], images.shape[2]], dtype=torch.float32).expand(len(images), 2)
        nuclei = normaliser(sum(len(b) for b in boxes), device)
        memories = self.network.memorise(images, origin=origin)
        noised = noised_queries(boxes, config.denoising, chances) if config.denoising else None
        detection = self.network.detect(memories, origin, noised.queries if noised else None)
        layers = Detections(
            torch.stack([layer.boxes for layer in detection.layers]),
            torch.stack([layer.logits for layer in detection.layers]),
        )
        matches, losses = self._one_to_one(layers, boxes, nuclei)
        terms: Losses = {f"layer{i}/{name}": value for i, layer in enumerate(losses) for name, value in layer.items()}
        for name, value in self._proposal_losses(detection, boxes, sizes, nuclei).items():
            terms[f"proposals/{name}"] = value
        if config.denoising:
            for i, layer in enumerate(denoising_losses(detection, noised, nuclei, config.denoising)):
                terms |= {f"denoising{i}/{name}": value for name, value in layer.items()}
        fed = feed(config, detection.last.boxes, matches[-1], boxes, types, chances)
        terms |= self._type_losses(memories, fed, origin, nuclei)
        weights = {"class": config.w_class, "l1": config.w_l1, "giou": config.w_giou, "type": config.w_type}
        total = torch.stack([weights[name.rpartition("/")[2]] * value for name, value in terms.items()]).sum()
        return total, {name: value.detach() for name, value in terms.items()}

    def _proposal_losses(
        self, detection: DetectionOutput, boxes: Sequence[Tensor], sizes: Tensor, nuclei: float
    ) -> Losses:
        found, anchors, dense = detection.proposals, detection.anchors, self.config.dense_queries
        if found is None or anchors is None:
            return {}
        if dense > 0:
            return {name: dense * value for name, value in dense_losses(found, anchors, boxes, sizes, nuclei).items()}
        one = Detections(found.boxes[None], found.logits[None])
        return self._one_to_one(one, boxes, nuclei)[1][0]

    def _one_to_one(
        self, layers: Detections, boxes: Sequence[Tensor], nuclei: float
    ) -> tuple[list[list[Match]], list[Losses]]:
        """Matches and losses of layers, (L, B, Q)."""
        config = self.config
        weights = {"w_class": config.w_class, "w_l1": config.w_l1, "w_giou": config.w_giou}
        matches = match(layers.logits.detach(), layers.boxes.detach(), boxes, **weights)
        return matches, detection_losses(layers, boxes, matches, nuclei)

    def _type_losses(self, memories: Memories, fed: Sequence[Source], origin: Tensor, nuclei: float) -> Losses:
        """Type loss of whatever boxes are fed to the representation decoder: the weighted sum over the sources."""
        boxes = pad_sequence([torch.cat(parts) for parts in zip(*(each.boxes for each in fed), strict=True)], True)
        source = [
            torch.cat([torch.full_like(part[:, 0], i, dtype=torch.long) for i, part in enumerate(parts)])
            for parts in zip(*(each.boxes for each in fed), strict=True)
        ]
        which = pad_sequence(source, batch_first=True, padding_value=-1)
        blocked = None
        if self.network.config.self_attention == "after_first":
            # Unmatched queries are background that a trained detector does not report: cells see cells only, and of a
            # cell that is there twice, detected and true, one does not see the other.
            blocked = hide_padding(which >= 0) | (which[:, None, :, None] != which[:, None, None, :])
        cells = self.network.represent(memories, boxes, origin, blocked)
        layers = [*cells.auxiliary, cells.logits] if self.config.auxiliary_types else [cells.logits]
        totals = [logits.sum() * 0 for logits in layers]
        for i, each in enumerate(fed):
            types = None if each.types is None else torch.cat(each.types)
            divisor = nuclei if types is None else normaliser(int((types >= 0).sum()), types.device)
            for layer, logits in enumerate(layers):
                mine = logits[which == i]  # image by image, as the types are
                loss = (
                    no_type_loss(mine, divisor) if types is None else type_loss(mine, types, self.type_weights, divisor)
                )
                totals[layer] = totals[layer] + each.weight * loss
        return {f"representation{layer}/type": total for layer, total in enumerate(totals)}
