"""Cell-level contrastive loss: two views of a cell agree, those of two cells do not.

*two*: each image is seen in two augmented views. Perturbed boxes in one view are the anchors, boxes in the other the
instances, and the other way round. In self-attention, if any, neither kind sees the other.
*released*, as the authors' code, in one view: of each image the n boxes are instances, and 2N - n anchors are the same
boxes perturbed, over and over (anchor a is of cell a mod n); N is the largest n of the batch. The loss is the mean over
images of the mean over an image's anchors, and self-attention sees contents without positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from celldetr.config import ModelConfig, TrainConfig
from celldetr.data.dataset import Batch, Targets
from celldetr.model.celldetr import CellDETR
from celldetr.training.box_sources import jitter_boxes
from celldetr.training.collapse import alignment, effective_rank, uniformity
from celldetr.training.criterion import Losses
from celldetr.training.infonce import Cells, Contrast, InfoNCE, concatenate
from celldetr.training.processes import gather_rows, largest
from celldetr.training.trainer import EncodedImages, TrainingLoss

INSTANCE, ANCHOR, PADDING = 0, 1, -1


def projection_head(model: ModelConfig, settings: TrainConfig) -> nn.Module:
    """Small MLP between embeddings and loss, or nothing at all. It is no part of a checkpoint."""
    if settings.contrastive.projection is None:
        return nn.Identity()
    hidden, out = (max(1, round(width * model.d_model)) for width in settings.contrastive.projection)
    return nn.Sequential(nn.Linear(model.d_model, hidden), nn.ReLU(), nn.Linear(hidden, out))


@dataclass(frozen=True)
class View:
    """One view of B images.

    Attributes:
        encoded: the images after the encoder.
        targets: B, all cells.
        instances: B, the cells that are not at the edge of the view.
        anchors: B, some of the cells with perturbed boxes; in *two*, those that are instances of the other view, too.
    """

    encoded: EncodedImages
    targets: Sequence[Targets]
    instances: Sequence[Targets]
    anchors: list[Targets] = field(default_factory=list)


class ContrastiveLoss(TrainingLoss):
    """A network and a projection head with the contrastive loss, and the losses of detection.

    Attributes:
        local: do not communicate with other processes.
        released: one view, as in the authors' code.
    """

    def __init__(self, network: CellDETR, config: TrainConfig, head: nn.Module) -> None:
        super().__init__(network, config, torch.ones(len(network.config.types)))
        self.head, self.local = head, False
        settings = config.contrastive
        self.released = settings.views == "released"
        self.info_nce = InfoNCE(
            settings.temperature,
            within_images=settings.negatives == "image",
            debias=settings.debias,
            average="images" if self.released else "anchors",
        )

    def forward(
        self, batch: Batch, generators: Sequence[torch.Generator], measure: bool = False
    ) -> tuple[Tensor, Losses]:
        """Loss of a batch of B images in V views, see ``TrainingLoss``; diagnostics are those of ``diagnose``."""
        settings = self.config.contrastive
        views = self.views(batch, generators)
        losses: Losses = {}
        learned = [] if settings.detection == "none" or self.config.detection_frozen else views
        learned = learned[:1] if settings.detection == "first" else learned
        for view in learned:
            output = self.detect(view.encoded, view.targets, generators)
            for name, value in self.criterion(output, view.targets).items():
                losses[name] = losses.get(name, torch.zeros_like(value)) + value / len(learned)
        contrast, embeddings = self.contrast(views)
        losses["contrastive/nce"] = contrast.loss + self._zero(views)
        terms = dict(losses)
        if measure:
            terms |= self.diagnose(contrast, embeddings)
        return self.criterion.total(losses), {name: value.detach() for name, value in terms.items()}

    def _zero(self, views: Sequence[View]) -> Tensor:
        """Zero, connected to images and decoder: a batch without a box has gradients, all of them zero."""
        connected = [view.encoded.memories.representation.tokens.sum() for view in views]
        connected += [parameter.sum() for parameter in self.head.parameters()]
        if self.network.representer is not None:
            connected += [parameter.sum() for parameter in self.network.representer.parameters()]
        return torch.stack(connected).sum() * 0

    def views(self, batch: Batch, generators: Sequence[torch.Generator]) -> list[View]:
        """Encode the V views of B images, and draw anchors; arguments as of ``forward``."""
        count, views = len(generators), []
        for start in range(0, len(batch.images), count):
            part, border = slice(start, start + count), self.config.contrastive.border
            encoded, targets = self.encode(batch.images[part], generators), batch.targets[part]
            pairs = zip(targets, encoded.sizes, strict=True)
            instances = [each.take(inside(each.boxes, size, border)) for each, size in pairs]
            views.append(View(encoded, targets, instances))
        rows = 2 * self._most_cells(views[0]) if self.released else 0
        for b, generator in enumerate(generators):
            for view, other in zip(views, reversed(views), strict=True):
                cells = view.instances[b]
                if self.released:
                    count = len(cells)
                    cells = cells.take(
                        torch.arange(rows - count if count else 0, device=cells.boxes.device) % max(count, 1)
                    )
                else:
                    cells = cells.take(torch.isin(cells.identities, other.instances[b].identities))
                noisy = jitter_boxes(cells.boxes.cpu(), *self.config.contrastive.jitter, generator=generator)
                view.anchors.append(replace(cells, boxes=noisy.to(cells.boxes.device)))
        return views

    def _most_cells(self, view: View) -> int:
        """Instances of the image that has most of them."""
        most = max((len(each) for each in view.instances), default=0)
        return most if self.local else largest(most, view.encoded.sizes.device)

    def contrast(self, views: Sequence[View]) -> tuple[Contrast, Tensor]:
        """InfoNCE of the views of a batch, and the embeddings (I, d) of all instances, before the projection."""
        instances, anchors = [], []
        for number, view in enumerate(views):
            embeddings, perturbed = self._embed(view)
            other = len(views) - 1 - number  # the other view, or the only one
            instances.append(_cells(embeddings, view.instances, number))
            anchors.append(_cells(perturbed, view.anchors, other))
        own = concatenate(instances)
        projected = (replace(each, vectors=self.head(each.vectors)) for each in (concatenate(anchors), own))
        perturbed_cells, cells = projected
        if self.local:
            contrast = self.info_nce(perturbed_cells, cells)
        else:
            contrast = self.info_nce.of_batch(perturbed_cells, cells, len(views[0].instances))
        return contrast, own.vectors

    def _embed(self, view: View) -> tuple[Tensor, Tensor]:
        """Embeddings of a view's instances (I, d) and anchors (A, d), image by image."""
        pairs = [(each.boxes, anchors.boxes) for each, anchors in zip(view.instances, view.anchors, strict=True)]
        rows = [torch.cat(pair) for pair in pairs]
        kinds = [
            torch.cat([torch.full((len(each),), kind, device=each.device) for kind, each in enumerate(pair)])
            for pair in pairs
        ]
        boxes, kind = pad_sequence(rows, True), pad_sequence(kinds, True, PADDING)
        blocked = None
        if self.network.config.self_attention == "after_first":
            blocked = hidden_rows(kind, released=self.released)
        encoded = view.encoded
        embeddings = self.network.represent(
            encoded.memories, boxes, encoded.origin, blocked, position_in_self_attention=not self.released
        ).embeddings
        return embeddings[kind == INSTANCE], embeddings[kind == ANCHOR]

    @torch.no_grad()
    def diagnose(self, contrast: Contrast, embeddings: Tensor) -> Losses:
        """Diagnostics of collapse over all processes: of the projected vectors, but ``rank`` of the embeddings.

        ``found`` is the share of anchors that are most like their own cell, ``chance`` the loss of random vectors.
        """
        with torch.autocast(embeddings.device.type, enabled=False):  # ranks of rounded vectors are too high
            positive = contrast.similarity.gather(1, contrast.positive[:, None])[:, 0]
            everywhere = embeddings if self.local else gather_rows(embeddings.detach())
            return {
                "embedding/alignment": alignment(positive),
                "embedding/uniformity": uniformity(contrast.instances),
                "embedding/rank": effective_rank(everywhere.float()),
                "embedding/rank_projected": effective_rank(contrast.instances),
                "embedding/found": contrast.correct.float().mean() if len(positive) else positive.new_zeros(()),
                "embedding/chance": positive.new_tensor(contrast.loss_by_chance),
            }


def _cells(vectors: Tensor, boxes: Sequence[Targets], view: int) -> Cells:
    """Embeddings of the boxes of B images, image by image, with the facts of the cells."""
    images = torch.cat([torch.full_like(each.identities, b) for b, each in enumerate(boxes)])
    return Cells(vectors, images, torch.cat([each.identities for each in boxes]), torch.full_like(images, view))


def inside(boxes: Tensor, size: Tensor, border: float) -> Tensor:
    """Mask (N,) of boxes, cxcywh fractions of an image of ``size`` (2,) px, that are ``border`` px from its edges.

    Near the edge, truncation is a shortcut cue by which a cell is recognised. 0: all.
    """
    if not border:
        return torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    centre, half = boxes[:, :2] * size, boxes[:, 2:] * size / 2
    return ((centre - half >= border) & (centre + half <= size - border)).all(1)


def hidden_rows(kind: Tensor, *, released: bool) -> Tensor:
    """Attention mask for a representation decoder with self-attention.

    Args:
        kind: (B, R), ``INSTANCE``, ``ANCHOR`` or ``PADDING``.
        released: all rows see the instances and nothing else, so that an anchor sees its own cell; False: each kind
            sees its own kind.

    Returns:
        (B, 1, R, R), True where a column is hidden from a row; a row that would see nothing sees itself.
    """
    hidden = (
        (kind != INSTANCE)[:, None, :].expand(-1, kind.shape[1], -1)
        if released
        else ((kind[:, :, None] != kind[:, None, :]) | (kind == PADDING)[:, None, :])
    )
    itself = torch.eye(kind.shape[1], dtype=torch.bool, device=kind.device)
    return (hidden & ~(itself & hidden.all(-1, keepdim=True)))[:, None]
