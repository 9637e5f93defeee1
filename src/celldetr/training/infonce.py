"""InfoNCE over cells: an anchor has to be more like its own cell than like any other (CPC, van den Oord et al. 2018).

    loss of anchor a = -log( exp(cos(a, positive) / t) / sum over positive and negatives j of exp(cos(a, j) / t) )

A cell that is the same one, seen in another crop of the batch, is neither positive nor negative. The loss of a batch is
the mean over its anchors, or, as in the authors' code, the mean over images of the mean over an image's anchors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from celldetr.training.processes import gather_rows, rank, world_size

Average = Literal["anchors", "images"]


@dataclass(frozen=True)
class Pairs:
    """A anchors and I instances, the cells among which each has to find its own, of this process.

    Attributes:
        anchors: (A, d) vectors.
        instances: (I, d) vectors.
        positive: (A,) which instance an anchor is of.
        anchor_image, instance_image: (A,) and (I,) which image of the batch each is from; the two views of an image are
            one image. Numbers are of this process.
        identities: (I,) number of the cell of each instance.
        sets: (A,) and (I,): anchors see instances of the same set only (those in the other view of the images).
    """

    anchors: Tensor
    instances: Tensor
    positive: Tensor
    anchor_image: Tensor
    instance_image: Tensor
    identities: Tensor
    sets: tuple[Tensor, Tensor]

    def everywhere(self, images: int) -> Pairs:
        """The pairs of all processes; ``images`` is how many images this one has, the same in all.

        Own vectors keep their graph, those of others have none (``gather_rows``).
        """
        anchors, _ = gather_rows(self.anchors)
        instances, first = gather_rows(self.instances)
        # In one message: whole numbers of both.
        table, _ = gather_rows(
            torch.stack([self.positive + first, self.anchor_image + images * rank(), self.sets[0]], dim=1)
        )
        facts, _ = gather_rows(
            torch.stack([self.instance_image + images * rank(), self.identities, self.sets[1]], dim=1)
        )
        positive, anchor_image, anchor_set = table.unbind(1)
        instance_image, identities, instance_set = facts.unbind(1)
        return Pairs(anchors, instances, positive, anchor_image, instance_image, identities, (anchor_set, instance_set))


@dataclass(frozen=True)
class Contrast:
    """InfoNCE of some pairs.

    Attributes:
        loss: mean over the anchors, or over images.
        similarity: (A, I) cosines, detached.
        negatives: (A, I) True where an instance is in an anchor's sum.
        positive: (A,) as in ``Pairs``.
        instances: (I, d) of length 1, detached.
        anchor_image, anchor_set: (A,) as in ``Pairs``.
    """

    loss: Tensor
    similarity: Tensor
    negatives: Tensor
    positive: Tensor
    instances: Tensor
    anchor_image: Tensor
    anchor_set: Tensor

    @property
    def correct(self) -> Tensor:
        """(A,) whether an anchor is more like its own cell than like all others."""
        best = self.similarity.masked_fill(~self.negatives, -torch.inf).argmax(1)
        return best == self.positive

    @property
    def loss_by_chance(self) -> float:
        """The loss of vectors that say nothing: the mean logarithm of how many cells there are to choose from."""
        return float(self.negatives.sum(1).clamp(min=1).float().log().mean()) if len(self.positive) else 0.0


def info_nce(
    pairs: Pairs,
    temperature: float,
    *,
    within_images: bool = False,
    debias: float = 0.0,
    average: Average = "anchors",
) -> Contrast:
    """InfoNCE of pairs, in float32 also under autocast: a loss near 0 is a difference of nearly equal numbers.

    Args:
        pairs: of the whole batch.
        temperature: t.
        within_images: negatives are the cells of the anchor's own image only.
        debias: share of the negatives that are of the anchor's own type, see ``debiased_negatives``.
        average: mean over the anchors, or over each image's anchors and then over the images that have any.

    Returns:
        the loss, zero without anchors (its gradient is then zero, too), and what it was made of.
    """
    with torch.autocast(pairs.anchors.device.type, enabled=False):
        return _info_nce(pairs, temperature, within_images, debias, average)


def _info_nce(pairs: Pairs, temperature: float, within_images: bool, debias: float, average: Average) -> Contrast:
    anchors = functional.normalize(pairs.anchors.float(), dim=1)
    instances = functional.normalize(pairs.instances.float(), dim=1)
    similarity = anchors @ instances.T
    negatives = pairs.sets[0][:, None] == pairs.sets[1][None]
    if within_images:
        negatives &= pairs.anchor_image[:, None] == pairs.instance_image[None]
    same = pairs.identities[pairs.positive][:, None] == pairs.identities[None]
    itself = torch.zeros_like(same).scatter_(1, pairs.positive[:, None], True)
    negatives = (negatives & ~same) | itself
    scores = (similarity / temperature).masked_fill(~negatives, -torch.inf)
    if len(scores):
        positive = scores.gather(1, pairs.positive[:, None])[:, 0]
        if debias:
            rest = scores.masked_fill(itself, -torch.inf)
            total = torch.logaddexp(positive, debiased_negatives(positive, rest, debias, 1 / temperature))
        else:
            total = scores.logsumexp(1)
        loss = (total - positive) @ anchor_weights(pairs.anchor_image, average)
    else:
        loss = (anchors.sum() + instances.sum()) * 0
    facts = pairs.positive, instances.detach(), pairs.anchor_image, pairs.sets[0]
    return Contrast(loss, similarity.detach(), negatives, *facts)


def anchor_weights(images: Tensor, average: Average) -> Tensor:
    """(A,) share of each anchor in the loss, from the image (A,) of each; they add up to 1."""
    if average == "anchors":
        return torch.full(images.shape, 1 / len(images), device=images.device)
    _, image, anchors = images.unique(return_inverse=True, return_counts=True)
    return 1 / (len(anchors) * anchors[image].float())


def debiased_negatives(positive: Tensor, rest: Tensor, share: float, most: float) -> Tensor:
    """Logarithm of the sum over the negatives of exp(score), without the estimated part of cells of the anchor's type.

    Of M negatives a share is estimated to be of the anchor's type, with scores like that of the positive; the sum is
    what M cells of other types would give: M * (mean of exp(score) - share * exp(positive)) / (1 - share), and not less
    than M cells as unlike as can be (Chuang et al., NeurIPS 2020, equation 8).

    Args:
        positive: (A,) scores of the pairs.
        rest: (A, I) scores of the negatives, -inf where there is none.
        share: of the negatives.
        most: largest score there can be; scores lie between it and its negative.
    """
    count = (rest > -torch.inf).sum(1)
    mean = (rest - most).exp().sum(1) / count.clamp(min=1)
    less = (mean - share * (positive - most).exp()) / (1 - share)
    least = torch.tensor(-2 * most, device=rest.device).exp().clamp(min=torch.finfo(rest.dtype).tiny)
    return (less.clamp(min=least) * count).clamp(min=torch.finfo(rest.dtype).tiny).log() + most


def batch_contrast(
    pairs: Pairs,
    images: int,
    temperature: float,
    *,
    within_images: bool = False,
    debias: float = 0.0,
    average: Average = "anchors",
) -> Contrast:
    """InfoNCE of a batch, the same in all processes that share it.

    Args:
        pairs: of this process.
        images: of this process; all have as many.
        temperature, within_images, debias, average: as for ``info_nce``.

    Returns:
        with a loss whose gradients, averaged over the processes, are those of the loss of the whole batch.
    """
    everywhere = pairs.everywhere(images)
    whole = info_nce(everywhere, temperature, within_images=within_images, debias=debias, average=average)
    # Each process has the part of the gradient that goes through its own vectors; their mean has to be the sum.
    loss = whole.loss
    if world_size() > 1:
        loss = loss.detach() + (loss - loss.detach()) * world_size()
    return replace(whole, loss=loss)
