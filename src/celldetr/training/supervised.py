"""Supervised training on labelled nuclei: one batch in, one loss out, in any of the modes of method section 2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from celldetr.config import TrainConfig
from celldetr.model.celldetr import CellDETR, Memories, Representations
from celldetr.model.detection import DetectionOutput, Detections
from celldetr.model.representation import hide_padding
from celldetr.training.box_noise import jitter_boxes
from celldetr.training.freezing import freeze
from celldetr.training.losses import Losses, dense_losses, detection_losses, type_loss
from celldetr.training.matching import Match, match
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
        # Where everything before is frozen no graph is kept, and the layers take their faster ways without one.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not {"backbone", "encoder"} <= set(config.freeze)):
            memories = self.network.memorise(images, origin=origin)
        found: list[tuple[Tensor, Tensor]] = []
        terms: Losses = {}
        if not config.detection_frozen:
            found, terms = self._detection(memories, boxes, types, origin, sizes)
        elif config.mode in ("sequential", "mixed"):
            found = self._found(memories, boxes, types, origin)
        if self.network.representer is not None:
            terms |= self.type_losses(memories, found, boxes, types, origin, chances)
        weights = {"class": config.w_class, "l1": config.w_l1, "giou": config.w_giou, "type": config.w_type}
        total = torch.stack([weights[name.rpartition("/")[2]] * value for name, value in terms.items()]).sum()
        return total, {name: value.detach() for name, value in terms.items()}

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
        types: Sequence[Tensor],
        origin: Tensor,
        sizes: Tensor,
    ) -> tuple[list[tuple[Tensor, Tensor]], Losses]:
        """Boxes found and the types of the nuclei they are, of each image, and the losses of finding them."""
        nuclei = normaliser(sum(len(b) for b in boxes), sizes.device)
        detection = self.network.detect(memories, origin)
        layers = Detections(
            torch.stack([layer.boxes for layer in detection.layers]),
            torch.stack([layer.logits for layer in detection.layers]),
        )
        matches, losses = self._one_to_one(layers, boxes, nuclei)
        terms: Losses = {f"layer{i}/{name}": value for i, layer in enumerate(losses) for name, value in layer.items()}
        for name, value in self._proposal_losses(detection, boxes, sizes, nuclei).items():
            terms[f"proposals/{name}"] = value
        if self.network.representer is None:
            terms |= self._query_type_losses(detection, matches, types)
        return matched(detection.last.boxes.detach(), matches[-1], types), terms

    @torch.no_grad()
    def _found(
        self, memories: Memories, boxes: Sequence[Tensor], types: Sequence[Tensor], origin: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """``_detection`` without losses, of a detector that does not learn."""
        last = self.network.detect(memories, origin).last
        matches = match(last.logits[None], last.boxes[None], boxes, **self._costs)
        return matched(last.boxes, matches[0], types)

    @property
    def _costs(self) -> dict[str, float]:
        return {"w_class": self.config.w_class, "w_l1": self.config.w_l1, "w_giou": self.config.w_giou}

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
        matches = match(layers.logits.detach(), layers.boxes.detach(), boxes, **self._costs)
        return matches, detection_losses(layers, boxes, matches, nuclei)

    def type_losses(
        self,
        memories: Memories,
        found: list[tuple[Tensor, Tensor]],
        boxes: Sequence[Tensor],
        types: Sequence[Tensor],
        origin: Tensor,
        chances: Sequence[torch.Generator],
    ) -> Losses:
        """Type loss of the boxes that the mode feeds to the representation decoder; ``found`` as of ``matched``."""
        mode = self.config.mode
        sources: list[list[tuple[Tensor, Tensor]]] = []  # of each source, each image's boxes and types
        if mode in ("sequential", "mixed"):
            sources.append(found)
        if mode != "sequential":
            sources.append([(self._noisy(image, chances[b]), types[b]) for b, image in enumerate(boxes)])
        asked, wanted, source = [], [], []  # all sources of an image become one list of boxes
        for parts in zip(*sources, strict=True):
            asked.append(torch.cat([part for part, _ in parts]))
            wanted.append(torch.cat([part for _, part in parts]))
            source.append(torch.cat([torch.full_like(part, i) for i, (_, part) in enumerate(parts)]))
        valid, target = _padded(wanted)
        padded = pad_sequence(asked, batch_first=True)
        blocked = None
        if self.network.config.self_attention == "after_first":
            # Unmatched queries are background that a trained detector does not report: cells see cells only, and of a
            # cell that is there twice, detected and true, one does not see the other.
            copy = pad_sequence(source, batch_first=True)
            blocked = hide_padding(valid) | (copy[:, None, :, None] != copy[:, None, None, :])
        cells = self.network.represent(memories, padded, origin, blocked)
        return self._per_layer(cells, [(valid, target)] * (len(cells.auxiliary) + 1))

    def _query_type_losses(
        self, detection: DetectionOutput, matches: Sequence[Sequence[Match]], types: Sequence[Tensor]
    ) -> Losses:
        """Type loss of the queries that each decoder layer matched, for a network without a representation decoder."""
        chosen = [pad_sequence([query for query, _ in layer], batch_first=True) for layer in matches]
        wanted = [_padded([types[b][nucleus] for b, (_, nucleus) in enumerate(layer)]) for layer in matches]
        return self._per_layer(self.network.read_queries(detection, chosen), wanted)

    def _per_layer(self, cells: Representations, wanted: Sequence[tuple[Tensor, Tensor]]) -> Losses:
        """Type loss after each layer; ``wanted`` are the valid places and the types of each."""
        layers = list(zip([*cells.auxiliary, cells.logits], wanted, strict=True))
        layers = layers if self.config.auxiliary_types else layers[-1:]
        known = int((wanted[-1][1] >= 0).sum())  # the same in all layers: each matches every nucleus
        labelled = normaliser(known, cells.logits.device)
        return {
            f"representation{i}/type": type_loss(logits[valid], target[valid], self.type_weights, labelled)
            for i, (logits, (valid, target)) in enumerate(layers)
        }

    def _noisy(self, boxes: Tensor, chance: torch.Generator) -> Tensor:
        if self.config.mode == "parallel":
            return boxes
        low, high, grow, share = self.config.jitter
        return jitter_boxes(boxes.cpu(), low, high, grow, share, generator=chance).to(boxes.device)


def matched(found: Tensor, matches: Sequence[Match], types: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Of each image the boxes (N, 4) that were matched to a nucleus, and its type (N,); ``found`` is (B, Q, 4)."""
    return [(found[b, query], types[b][nucleus]) for b, (query, nucleus) in enumerate(matches)]


def _padded(types: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Types of each image's boxes, (N_b,) -> which places of (B, N) are boxes, and the types there, -1 elsewhere."""
    valid = pad_sequence([torch.ones_like(t, dtype=torch.bool) for t in types], batch_first=True)
    return valid, pad_sequence(list(types), batch_first=True, padding_value=-1)
