"""Supervised training on labelled nuclei: one batch in, one loss out, in any of the modes of method section 2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from celldetr.config import TrainConfig
from celldetr.data.dataset import SoftLabels
from celldetr.model.celldetr import CellDETR, Memories, Representations
from celldetr.model.detection import DetectionOutput, Detections
from celldetr.model.representation import hide_padding
from celldetr.training.box_sources import Source, feed
from celldetr.training.criterion import Losses, dense_losses, detection_losses, no_type_loss
from celldetr.training.denoising import denoising_losses, noised_queries
from celldetr.training.freezing import freeze
from celldetr.training.labels import Labels
from celldetr.training.matcher import Match, match
from celldetr.training.processes import normaliser

ORIGIN_PX = 1024.0  # training images lie anywhere in a field of this many pixels


class Supervised(nn.Module):
    """A network with its supervised objective; ``forward`` returns the loss, so that data parallelism can wrap it."""

    type_weights: Tensor

    def __init__(self, network: CellDETR, config: TrainConfig, type_weights: Tensor) -> None:
        """Freeze what ``config.freeze`` names, and wrap the rest."""
        super().__init__()
        self.network, self.config = network, config
        self._frozen = freeze(network, config.freeze)
        self.register_buffer("type_weights", type_weights, persistent=False)

    def forward(
        self,
        images: Tensor,
        boxes: Sequence[Tensor],
        types: Sequence[Tensor],
        generators: Sequence[torch.Generator],
        soft: SoftLabels | None = None,
    ) -> tuple[Tensor, Losses]:
        """Loss of a batch.

        Args:
            images: (B, 3, H, W) uint8.
            boxes: B tensors (N_b, 4), cxcywh fractions; N_b may be 0.
            types: B tensors (N_b,), index of the type or -1.
            generators: B sources of all randomness, one an image, on the CPU.
            soft: confidences of the types, and spots.

        Returns:
            the loss, and its parts (detached) by name.
        """
        config = self.config
        labels = Labels.of(types, soft)
        memories, origin, sizes = self.look(images, generators)
        nuclei = normaliser(sum(len(b) for b in boxes), images.device)
        found: list[tuple[Tensor, Tensor]] = []
        terms: Losses = {}
        if not config.detection_frozen:
            found, terms = self._detection(memories, boxes, labels, origin, sizes, nuclei, generators)
        elif config.mode in ("sequential", "mixed"):
            found = self._found(memories, boxes, origin)
        if self.network.representer is not None and config.learns_types:
            terms |= self.type_losses(memories, feed(config, found, boxes, generators), labels, origin, nuclei)
        return self.total(terms), {name: value.detach() for name, value in terms.items()}

    def look(self, images: Tensor, generators: Sequence[torch.Generator]) -> tuple[Memories, Tensor, Tensor]:
        """Memories of images (B, 3, H, W), their places (B, 2) in a field of ``ORIGIN_PX`` and sizes (B, 2), pixels."""
        origin = torch.stack([torch.rand(2, generator=chance) for chance in generators]).to(images.device) * ORIGIN_PX
        sizes = images.new_tensor([images.shape[3], images.shape[2]], dtype=torch.float32).expand(len(images), 2)
        # Where everything before is frozen no graph is kept, and the layers take their faster ways without one.
        frozen = {"backbone", "encoder"} <= set(self.config.freeze)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.network.memorise(images, origin=origin), origin, sizes

    def total(self, terms: Losses) -> Tensor:
        """Weighted sum of losses; what a name says after its last slash is the kind of loss, which has the weight."""
        config = self.config
        weights = {"class": config.w_class, "l1": config.w_l1, "giou": config.w_giou, "type": config.w_type}
        weights |= {"composition": config.w_composition, "nce": config.contrastive.weight}
        return torch.stack([weights[name.rpartition("/")[2]] * value for name, value in terms.items()]).sum()

    def train(self, mode: bool = True) -> Supervised:
        """Set training mode, except for frozen parts, which have neither dropout nor statistics of the batch."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _detection(
        self,
        memories: Memories,
        boxes: Sequence[Tensor],
        labels: Labels,
        origin: Tensor,
        sizes: Tensor,
        nuclei: float,
        generators: Sequence[torch.Generator],
    ) -> tuple[list[tuple[Tensor, Tensor]], Losses]:
        """Boxes found and which nuclei they are, of each image, and the losses of finding them."""
        groups = self.config.denoising
        noised = noised_queries(boxes, groups, generators) if groups else None
        detection = self.network.detect(memories, origin, noised.queries if noised else None)
        layers = Detections(
            torch.stack([layer.boxes for layer in detection.layers]),
            torch.stack([layer.logits for layer in detection.layers]),
        )
        matches, losses = self._one_to_one(layers, boxes, nuclei)
        terms: Losses = {f"layer{i}/{name}": value for i, layer in enumerate(losses) for name, value in layer.items()}
        for name, value in self._proposal_losses(detection, boxes, sizes, nuclei).items():
            terms[f"proposals/{name}"] = value
        if groups:
            for i, layer in enumerate(denoising_losses(detection, noised, nuclei, groups)):
                terms |= {f"denoising{i}/{name}": value for name, value in layer.items()}
        if self.network.representer is None:
            terms |= self._query_type_losses(detection, matches, labels)
        return matched(detection.last.boxes.detach(), matches[-1]), terms

    @torch.no_grad()
    def _found(self, memories: Memories, boxes: Sequence[Tensor], origin: Tensor) -> list[tuple[Tensor, Tensor]]:
        """``_detection`` without losses, of a detector that does not learn."""
        last = self.network.detect(memories, origin).last
        matches = match(last.logits[None], last.boxes[None], boxes, **matching_costs(self.config))
        return matched(last.boxes, matches[0])

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
        matches = match(layers.logits.detach(), layers.boxes.detach(), boxes, **matching_costs(self.config))
        return matches, detection_losses(layers, boxes, matches, nuclei)

    def type_losses(
        self, memories: Memories, fed: Sequence[Source], labels: Labels, origin: Tensor, nuclei: float
    ) -> Losses:
        """Losses of types and compositions after each layer, of whatever boxes are fed to the representation decoder.

        Args:
            memories: of the images.
            fed: of ``feed``; their weighted losses are added.
            labels: of the nuclei.
            origin: (B, 2) pixels.
            nuclei: ``normaliser`` of the nuclei in the batch.
        """
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
        layers = self._supervised(cells)
        totals = [logits.sum() * 0 for logits in layers]
        spots = [logits.sum() * 0 for logits in layers] if self.config.w_composition else []
        for i, each in enumerate(fed):
            mine = [logits[which == i] for logits in layers]  # image by image, as the labels are
            own = None if each.nuclei is None else labels.take(each.nuclei)
            divisor = nuclei if own is None else own.divisor()
            for layer, logits in enumerate(mine):
                loss = no_type_loss(logits, divisor) if own is None else own.loss(logits, self.type_weights, divisor)
                totals[layer] = totals[layer] + each.weight * loss
            if own is None or not spots:
                continue
            taught = own.spot_divisor()
            for layer, logits in enumerate(mine):
                spots[layer] = spots[layer] + each.weight * own.spot_loss(logits, taught)
        terms = {f"representation{layer}/type": total for layer, total in enumerate(totals)}
        return terms | {f"representation{layer}/composition": total for layer, total in enumerate(spots)}

    def _query_type_losses(
        self, detection: DetectionOutput, matches: Sequence[Sequence[Match]], labels: Labels
    ) -> Losses:
        """Type loss of the queries that each decoder layer matched, for a network without a representation decoder."""
        chosen = [pad_sequence([query for query, _ in layer], batch_first=True) for layer in matches]
        layers = self._supervised(self.network.read_queries(detection, chosen))
        losses = {}
        for i, (logits, layer) in enumerate(zip(layers, matches[-len(layers) :], strict=True)):
            wanted = [nucleus for _, nucleus in layer]
            found = torch.cat([logits[b, : len(each)] for b, each in enumerate(wanted)])
            own = labels.take(wanted)
            losses[f"representation{i}/type"] = own.loss(found, self.type_weights, own.divisor())
        return losses

    def _supervised(self, cells: Representations) -> list[Tensor]:
        """Logits of the layers that have a loss."""
        return [*cells.auxiliary, cells.logits] if self.config.auxiliary_types else [cells.logits]


def matching_costs(config: TrainConfig) -> dict[str, float]:
    """The weights of ``match``: those of the losses."""
    return {"w_class": config.w_class, "w_l1": config.w_l1, "w_giou": config.w_giou}


def matched(found: Tensor, matches: Sequence[Match]) -> list[tuple[Tensor, Tensor]]:
    """Of each image the boxes (N, 4) that were matched to a nucleus, and which (N,); ``found`` is (B, Q, 4)."""
    return [(found[b, query], nucleus) for b, (query, nucleus) in enumerate(matches)]
