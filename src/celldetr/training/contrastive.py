"""Cell-level contrastive pretraining (method section 4): two views of a cell agree, those of two cells do not.

*released*, as the authors' code: of each image the n boxes are instances, and 2N - n anchors are the same boxes
perturbed, over and over (anchor a is of cell a mod n); N is the largest n of the batch. All come from one image.
*two*: each image is seen in two augmented views. Perturbed boxes in one view are the anchors, boxes in the other the
instances, and the other way round. Neither anchors nor instances see the other kind in attention, if there is any.

Detection goes on learning from the boxes. An image without a box has no anchor; a batch without any has a loss of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from celldetr.config import ModelConfig, TrainConfig
from celldetr.data.dataset import SoftLabels
from celldetr.data.sample import UNKNOWN
from celldetr.model.celldetr import CellDETR, Memories
from celldetr.training.box_noise import jitter_boxes
from celldetr.training.collapse import alignment, effective_rank, uniformity
from celldetr.training.criterion import Losses
from celldetr.training.infonce import Contrast, Pairs, batch_contrast, info_nce
from celldetr.training.labels import Labels
from celldetr.training.processes import gather_rows, largest, normaliser
from celldetr.training.supervised import Supervised

INSTANCE, ANCHOR, PADDING = 0, 1, -1


def projection_head(model: ModelConfig, settings: TrainConfig) -> nn.Module:
    """What the loss sees embeddings through: a small MLP, or nothing at all. It is no part of a checkpoint."""
    if settings.contrastive.projection is None:
        return nn.Identity()
    hidden, out = (max(1, round(width * model.d_model)) for width in settings.contrastive.projection)
    return nn.Sequential(nn.Linear(model.d_model, hidden), nn.ReLU(), nn.Linear(hidden, out))


@dataclass(frozen=True)
class View:
    """One view of B images.

    Attributes:
        memories: of the images.
        origin, sizes: (B, 2) pixels.
        nuclei: B tensors (M, 4), cxcywh fractions: all boxes.
        boxes: B tensors (N, 4), those that are not at the edge of the view: the instances.
        cells: B tensors (N,), which cell each is of.
        anchors: B tensors (A, 4), perturbed boxes.
        own: B tensors (A,), which instance of the image each anchor is of; for *two*, of the image's other view.
    """

    memories: Memories
    origin: Tensor
    sizes: Tensor
    nuclei: Sequence[Tensor]
    boxes: Sequence[Tensor]
    cells: Sequence[Tensor]
    anchors: list[Tensor] = field(default_factory=list)
    own: list[Tensor] = field(default_factory=list)


class Contrastive(Supervised):
    """A network and a projection head with the contrastive objective; detection learns as in ``Supervised``."""

    def __init__(self, network: CellDETR, config: TrainConfig, head: nn.Module, *, alone: bool = False) -> None:
        """Freeze what ``config.freeze`` names; ``alone``: speak to no other process."""
        super().__init__(network, config, torch.ones(len(network.config.types)))
        self.head, self.alone = head, alone
        self.measure = True  # whether the terms hold alignment, uniformity and rank, too

    def forward(
        self,
        images: Tensor,
        boxes: Sequence[Tensor],
        types: Sequence[Tensor],
        generators: Sequence[torch.Generator],
        soft: SoftLabels | None = None,
    ) -> tuple[Tensor, Losses]:
        """Loss of a batch of B images in V views.

        Args:
            images: (V * B, 3, H, W) uint8: the first view of each image, then the second of each.
            boxes: V * B tensors (N, 4), cxcywh fractions; N may be 0.
            types: V * B tensors (N,), the identities of the cells (``ViewBatch.cells``).
            generators: B sources of all randomness, one an image, on the CPU.
            soft: is about types, and not looked at.

        Returns:
            the loss, and by name its parts (detached) and, if ``measure``, what ``collapse`` watches.
        """
        settings = self.config.contrastive
        seen = self.views(images, boxes, types, generators)
        terms: Losses = {}
        learnt = [] if settings.detection == "none" or self.config.detection_frozen else seen
        learnt = learnt[:1] if settings.detection == "first" else learnt
        for view in learnt:
            nuclei = normaliser(sum(len(b) for b in view.nuclei), images.device)
            none = Labels([torch.full_like(b[:, 0], UNKNOWN, dtype=torch.long) for b in view.nuclei])
            parts = view.memories, view.nuclei, none, view.origin, view.sizes, nuclei, generators
            for name, value in self._detection(*parts)[1].items():
                terms[name] = terms.get(name, torch.zeros_like(value)) + value / len(learnt)
        contrast, embeddings = self.contrast(seen)
        terms["contrastive/nce"] = contrast.loss + self._nothing(seen)
        loss = self.total(terms)
        if self.measure:
            terms |= self.watch(contrast, embeddings)
        return loss, {name: value.detach() for name, value in terms.items()}

    def _nothing(self, seen: Sequence[View]) -> Tensor:
        """Zero, connected to images and decoder: a batch without a box has gradients, all of them zero."""
        connected = [view.memories.representation.tokens.sum() for view in seen]
        connected += [parameter.sum() for parameter in self.head.parameters()]
        if self.network.representer is not None:
            connected += [parameter.sum() for parameter in self.network.representer.parameters()]
        return torch.stack(connected).sum() * 0

    def views(
        self, images: Tensor, boxes: Sequence[Tensor], cells: Sequence[Tensor], generators: Sequence[torch.Generator]
    ) -> list[View]:
        """Look at the V views of B images, and draw anchors; arguments as of ``forward``."""
        count, out = len(generators), []
        for start in range(0, len(images), count):
            part = slice(start, start + count)
            memories, origin, sizes = self.look(images[part], generators)
            away = [inside(b, size, self.config.contrastive.border) for b, size in zip(boxes[part], sizes, strict=True)]
            shown = [[each[keep] for each, keep in zip(values[part], away, strict=True)] for values in (boxes, cells)]
            out.append(View(memories, origin, sizes, boxes[part], *shown))
        if self.config.contrastive.views == "released":
            most = max((len(b) for b in out[0].boxes), default=0)
            rows = 2 * (most if self.alone else largest(most, images.device))
            for b, chance in enumerate(generators):
                n = len(out[0].boxes[b])
                own = torch.arange(rows - n if n else 0, device=images.device) % max(n, 1)
                self._add_anchors(out[0], b, own, own, chance)
            return out
        for b, chance in enumerate(generators):
            for view, other in zip(out, reversed(out), strict=True):
                same = view.cells[b][:, None] == other.cells[b][None]
                mine, theirs = same.nonzero(as_tuple=True)  # a cell may be in one view only
                self._add_anchors(view, b, mine, theirs, chance)
        return out

    def _add_anchors(self, view: View, image: int, source: Tensor, own: Tensor, chance: torch.Generator) -> None:
        boxes = view.boxes[image][source]
        noisy = jitter_boxes(boxes.cpu(), *self.config.contrastive.jitter, generator=chance)
        view.anchors.append(noisy.to(boxes.device))
        view.own.append(own)

    def contrast(self, seen: Sequence[View]) -> tuple[Contrast, Tensor]:
        """InfoNCE of the views of a batch, and the embeddings (I, d) of all instances, before the projection."""
        settings = self.config.contrastive
        embedded = [self._embed(view) for view in seen]
        instances = torch.cat([vectors for vectors, _ in embedded])
        lengths = [len(b) for view in seen for b in view.boxes]
        starts = torch.tensor([0, *lengths]).cumsum(0).tolist()
        images = len(seen[0].boxes)
        own, anchor_image, anchor_set = [], [], []
        for v, view in enumerate(seen):
            asked = len(seen) - 1 - v  # the other view, or the only one
            for b, each in enumerate(view.own):
                own.append(each + starts[asked * images + b])
                anchor_image.append(torch.full_like(each, b))
                anchor_set.append(torch.full_like(each, asked))
        cells = [cell for view in seen for cell in view.cells]
        pairs = Pairs(
            anchors=self.head(torch.cat([vectors for _, vectors in embedded])),
            instances=self.head(instances),
            own=torch.cat(own),
            anchor_image=torch.cat(anchor_image),
            instance_image=torch.cat([torch.full_like(cell, i % images) for i, cell in enumerate(cells)]),
            cells=torch.cat(cells),
            sets=(
                torch.cat(anchor_set),
                torch.cat([torch.full_like(cell, i // images) for i, cell in enumerate(cells)]),
            ),
        )
        how: Any = {"within_images": settings.negatives == "image", "debias": settings.debias}
        if self.alone:
            return info_nce(pairs, settings.temperature, **how, divisor=max(len(pairs.anchors), 1)), instances
        return batch_contrast(pairs, images, settings.temperature, **how), instances

    def _embed(self, view: View) -> tuple[Tensor, Tensor]:
        """Embeddings of a view's instances (I, d) and anchors (A, d), image by image."""
        rows = [torch.cat(pair) for pair in zip(view.boxes, view.anchors, strict=True)]
        kinds = [
            torch.cat([torch.full((len(own),), kind, device=own.device) for kind, own in enumerate(pair)])
            for pair in zip(view.boxes, view.anchors, strict=True)
        ]
        boxes, kind = pad_sequence(rows, True), pad_sequence(kinds, True, PADDING)
        blocked = None
        if self.network.config.self_attention == "after_first":
            blocked = hide(kind, released=self.config.contrastive.views == "released")
        embeddings = self.network.represent(view.memories, boxes, view.origin, blocked).embeddings
        return embeddings[kind == INSTANCE], embeddings[kind == ANCHOR]

    @torch.no_grad()
    def watch(self, contrast: Contrast, embeddings: Tensor) -> Losses:
        """What says whether embeddings collapse, of all processes: see ``collapse``.

        ``alignment``, ``uniformity`` and ``rank_projected`` are of the vectors that the loss sees, ``rank`` is of the
        embeddings themselves. ``found`` is the share of anchors that are most like their own cell, ``chance`` the loss
        of vectors that say nothing.
        """
        with torch.autocast(embeddings.device.type, enabled=False):  # ranks of rounded vectors are too high
            own = contrast.similarity.gather(1, contrast.own[:, None])[:, 0]
            everywhere = embeddings if self.alone else gather_rows(embeddings.detach())[0]
            return {
                "embedding/alignment": alignment(own),
                "embedding/uniformity": uniformity(contrast.instances),
                "embedding/rank": effective_rank(everywhere.float()),
                "embedding/rank_projected": effective_rank(contrast.instances),
                "embedding/found": contrast.found.float().mean() if len(own) else own.new_zeros(()),
                "embedding/chance": own.new_tensor(contrast.chance),
            }


def inside(boxes: Tensor, size: Tensor, border: float) -> Tensor:
    """Which boxes (N, 4), cxcywh fractions of an image of ``size`` (2,) px, keep ``border`` px from its edges; 0: all.

    A box that is cut off reaches the edge.
    """
    if not border:
        return torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    centre, half = boxes[:, :2] * size, boxes[:, 2:] * size / 2
    return ((centre - half >= border) & (centre + half <= size - border)).all(1)


def hide(kind: Tensor, *, released: bool) -> Tensor:
    """Which rows may not see which, for a representation decoder with self-attention.

    Args:
        kind: (B, R), ``INSTANCE``, ``ANCHOR`` or ``PADDING``.
        released: all rows see the instances and nothing else, so that an anchor sees its own cell; False: each kind
            sees its own kind.

    Returns:
        (B, 1, R, R), True = hidden; a row that would see nothing sees itself.
    """
    hidden = (
        (kind != INSTANCE)[:, None, :].expand(-1, kind.shape[1], -1)
        if released
        else ((kind[:, :, None] != kind[:, None, :]) | (kind == PADDING)[:, None, :])
    )
    itself = torch.eye(kind.shape[1], dtype=torch.bool, device=kind.device)
    return (hidden & ~(itself & hidden.all(-1, keepdim=True)))[:, None]
