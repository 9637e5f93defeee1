"""InfoNCE over cells: an anchor has to be more like its own cell than like any other (CPC, van den Oord et al. 2018).

    loss of anchor a = -log( exp(cos(a, positive) / t) / sum over positive and negatives j of exp(cos(a, j) / t) )

A cell that is the same one, seen in another crop of the batch, is neither positive nor negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from celldetr.training.processes import gather_rows, rank, world_size

Average = Literal["anchors", "images"]


@dataclass(frozen=True)
class Cells:
    """N embedded cells; no two have image, identity and view in common, but anchors may.

    Attributes:
        vectors: (N, d).
        images: (N,) image of the batch; the two views of an image are one image.
        identities: (N,) number of the cell.
        views: (N,) number of the view; of an anchor, that of its positive and negatives.
    """

    vectors: Tensor
    images: Tensor
    identities: Tensor
    views: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    def of_all_processes(self, images: int) -> Cells:
        """The cells of all processes, of ``images`` images each; vectors of others have no graph."""
        facts = torch.stack([self.images + images * rank(), self.identities, self.views], dim=1)  # one message
        return Cells(gather_rows(self.vectors), *gather_rows(facts).unbind(1))


def concatenate(cells: Sequence[Cells]) -> Cells:
    """Several groups of cells as one."""
    vectors, images, identities, views = (
        torch.cat([getattr(each, name) for each in cells]) for name in ("vectors", "images", "identities", "views")
    )
    return Cells(vectors, images, identities, views)


@dataclass(frozen=True)
class Contrast:
    """InfoNCE of A anchors and I instances, and what it was computed from, detached.

    Attributes:
        loss: mean over the anchors, or over images; 0, with zero gradients, without an anchor.
        similarity: (A, I) cosines.
        negatives: (A, I) True where an instance is in an anchor's sum.
        positive: (A,) which instance an anchor is of.
        instances: (I, d) of length 1.
        anchor_image, anchor_view: (A,).
    """

    loss: Tensor
    similarity: Tensor
    negatives: Tensor
    positive: Tensor
    instances: Tensor
    anchor_image: Tensor
    anchor_view: Tensor

    @property
    def correct(self) -> Tensor:
        """(A,) whether an anchor is more like its own cell than like all others."""
        best = self.similarity.masked_fill(~self.negatives, -torch.inf).argmax(1)
        return best == self.positive

    @property
    def loss_by_chance(self) -> float:
        """The loss of uninformative vectors: the mean logarithm of how many cells there are to choose from."""
        return float(self.negatives.sum(1).clamp(min=1).float().log().mean()) if len(self.positive) else 0.0


@dataclass(frozen=True)
class InfoNCE:
    """InfoNCE, in float32 also under autocast: a loss near 0 is a difference of nearly equal numbers.

    Attributes:
        temperature: t.
        within_images: negatives are the cells of the anchor's own image only.
        debias: share of the negatives that are of the anchor's own type, see ``debiased_negatives``.
        average: mean over the anchors, or, as in the authors' code, over images of the mean over an image's anchors.
    """

    temperature: float
    within_images: bool = False
    debias: float = 0.0
    average: Average = "anchors"

    def __call__(self, anchors: Cells, instances: Cells) -> Contrast:
        """Contrast anchors with the instances of the same view, one of which is their own cell."""
        with torch.autocast(anchors.vectors.device.type, enabled=False):
            return self._contrast(anchors, instances)

    def _contrast(self, anchors: Cells, instances: Cells) -> Contrast:
        a, b = (functional.normalize(each.vectors.float(), dim=1) for each in (anchors, instances))
        similarity = a @ b.T
        same_view = anchors.views[:, None] == instances.views
        same_cell = anchors.identities[:, None] == instances.identities
        same_image = anchors.images[:, None] == instances.images
        itself = same_view & same_cell & same_image
        others = same_view & ~same_cell
        negatives = itself | (others & same_image if self.within_images else others)
        own = itself.long().argmax(1) if len(anchors) else anchors.views
        loss = (a.sum() + b.sum()) * 0
        if len(anchors):
            scores = (similarity / self.temperature).masked_fill(~negatives, -torch.inf)
            positive = scores.gather(1, own[:, None])[:, 0]
            if self.debias:
                rest = scores.masked_fill(itself, -torch.inf)
                rest = debiased_negatives(positive, rest, self.debias, 1 / self.temperature)
                total = torch.logaddexp(positive, rest)
            else:
                total = scores.logsumexp(1)
            loss = (total - positive) @ anchor_weights(anchors.images, self.average)
        return Contrast(loss, similarity.detach(), negatives, own, b.detach(), anchors.images, anchors.views)

    def of_batch(self, anchors: Cells, instances: Cells, images: int) -> Contrast:
        """Contrast of the whole batch, the same in all processes that share it.

        Args:
            anchors, instances: of this process.
            images: of this process; all have as many.

        Returns:
            with a loss whose gradients, averaged over the processes, are those of the loss of the whole batch.
        """
        whole = self(anchors.of_all_processes(images), instances.of_all_processes(images))
        # Each process has the part of the gradient that goes through its own vectors; their mean has to be the sum.
        loss, processes = whole.loss, world_size()
        if processes > 1:
            loss = loss.detach() + (loss - loss.detach()) * processes
        return replace(whole, loss=loss)


def anchor_weights(images: Tensor, average: Average) -> Tensor:
    """(A,) share of each anchor in the loss, from the image (A,) of each; they add up to 1."""
    if average == "anchors":
        return torch.full(images.shape, 1 / len(images), device=images.device)
    _, image, anchors = images.unique(return_inverse=True, return_counts=True)
    return 1 / (len(anchors) * anchors[image].float())


def debiased_negatives(positive: Tensor, rest: Tensor, share: float, most: float) -> Tensor:
    """Debiased log-sum-exp of the negatives' scores (Chuang et al., NeurIPS 2020, equation 8), (A,).

    Of M negatives a share is estimated to be of the anchor's type, with scores like that of the positive; the sum of
    exp(score) becomes M * (mean of exp(score) - share * exp(positive)) / (1 - share), bounded from below.

    Args:
        positive: (A,) scores of the pairs.
        rest: (A, I) scores of the negatives, -inf where there is none.
        share: of the negatives.
        most: largest possible score; scores lie between it and its negative.
    """
    count = (rest > -torch.inf).sum(1)
    mean = (rest - most).exp().sum(1) / count.clamp(min=1)
    less = (mean - share * (positive - most).exp()) / (1 - share)
    least = torch.tensor(-2 * most, device=rest.device).exp().clamp(min=torch.finfo(rest.dtype).tiny)
    return (less.clamp(min=least) * count).clamp(min=torch.finfo(rest.dtype).tiny).log() + most
