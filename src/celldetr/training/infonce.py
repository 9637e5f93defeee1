"""InfoNCE over cells: an anchor has to be more like its own cell than like any other (CPC, van den Oord et al. 2018).

    loss of anchor a = -log( exp(cos(a, own cell) / t) / sum over cells j it is told from of exp(cos(a, j) / t) )

The sum holds the own cell. A cell that is the same one, seen in another crop of the batch, is left out of it: it is
neither the pair that is asked for nor another cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from celldetr.training.processes import gather_rows, normaliser, place, processes


@dataclass(frozen=True)
class Pairs:
    """A anchors and the I cells (instances) that they are told from, of this process.

    Attributes:
        anchors: (A, d) vectors.
        instances: (I, d) vectors.
        own: (A,) which instance an anchor is of.
        anchor_image, instance_image: (A,) and (I,) which image of the batch each is from; the two views of an image are
            one image. Numbers are of this process.
        cells: (I,) identity of each instance.
        sets: (A,) and (I,): anchors see instances of the same set only (those in the other view of the images).
    """

    anchors: Tensor
    instances: Tensor
    own: Tensor
    anchor_image: Tensor
    instance_image: Tensor
    cells: Tensor
    sets: tuple[Tensor, Tensor]

    def everywhere(self, images: int) -> Pairs:
        """The pairs of all processes; ``images`` is how many images this one has, the same in all.

        Own vectors keep their graph, those of others have none (``gather_rows``).
        """
        anchors, _ = gather_rows(self.anchors)
        instances, first = gather_rows(self.instances)
        # In one message: whole numbers of both.
        table, _ = gather_rows(
            torch.stack([self.own + first, self.anchor_image + images * place(), self.sets[0]], dim=1)
        )
        facts, _ = gather_rows(torch.stack([self.instance_image + images * place(), self.cells, self.sets[1]], dim=1))
        own, anchor_image, anchor_set = table.unbind(1)
        instance_image, cells, instance_set = facts.unbind(1)
        return Pairs(anchors, instances, own, anchor_image, instance_image, cells, (anchor_set, instance_set))


@dataclass(frozen=True)
class Contrast:
    """What InfoNCE made of pairs.

    Attributes:
        loss: sum over the anchors, divided by what was asked.
        similarity: (A, I) cosines, detached.
        negatives: (A, I) True where an instance is in an anchor's sum.
        own: (A,) as in ``Pairs``.
        instances: (I, d) of length 1, detached.
        anchor_image, anchor_set: (A,) as in ``Pairs``.
    """

    loss: Tensor
    similarity: Tensor
    negatives: Tensor
    own: Tensor
    instances: Tensor
    anchor_image: Tensor
    anchor_set: Tensor

    @property
    def found(self) -> Tensor:
        """(A,) whether an anchor is more like its own cell than like all others."""
        best = self.similarity.masked_fill(~self.negatives, -torch.inf).argmax(1)
        return best == self.own

    @property
    def chance(self) -> float:
        """The loss of vectors that say nothing: the mean logarithm of how many cells there are to choose from."""
        return float(self.negatives.sum(1).clamp(min=1).float().log().mean()) if len(self.own) else 0.0


def info_nce(
    pairs: Pairs, temperature: float, *, within_images: bool = False, debias: float = 0.0, divisor: float = 1.0
) -> Contrast:
    """InfoNCE of pairs, in float32 also under autocast: a loss near 0 is a difference of nearly equal numbers.

    Args:
        pairs: of the whole batch.
        temperature: t.
        within_images: an anchor is told from the cells of its own image only.
        debias: share of the other cells that are of the anchor's own type, see ``others``.
        divisor: of the sum over the anchors.

    Returns:
        the loss, zero without anchors (its gradient is then zero, too), and what it was made of.
    """
    with torch.autocast(pairs.anchors.device.type, enabled=False):
        return _info_nce(pairs, temperature, within_images, debias, divisor)


def _info_nce(pairs: Pairs, temperature: float, within_images: bool, debias: float, divisor: float) -> Contrast:
    anchors = functional.normalize(pairs.anchors.float(), dim=1)
    instances = functional.normalize(pairs.instances.float(), dim=1)
    similarity = anchors @ instances.T
    negatives = pairs.sets[0][:, None] == pairs.sets[1][None]
    if within_images:
        negatives &= pairs.anchor_image[:, None] == pairs.instance_image[None]
    same = pairs.cells[pairs.own][:, None] == pairs.cells[None]
    itself = torch.zeros_like(same).scatter_(1, pairs.own[:, None], True)
    negatives = (negatives & ~same) | itself
    scores = (similarity / temperature).masked_fill(~negatives, -torch.inf)
    if len(scores):
        wanted = scores.gather(1, pairs.own[:, None])[:, 0]
        if debias:
            rest = scores.masked_fill(itself, -torch.inf)
            total = torch.logaddexp(wanted, others(wanted, rest, debias, 1 / temperature))
        else:
            total = scores.logsumexp(1)
        loss = (total - wanted).sum() / divisor
    else:
        loss = (anchors.sum() + instances.sum()) * 0
    facts = pairs.own, instances.detach(), pairs.anchor_image, pairs.sets[0]
    return Contrast(loss, similarity.detach(), negatives, *facts)


def others(wanted: Tensor, rest: Tensor, share: float, most: float) -> Tensor:
    """Logarithm of the sum over other cells of exp(score), less what those of the anchor's own type are thought to add.

    Of M others a share is of the own type, whose scores are thought to be like that of the pair; the sum is what M
    cells of other types would give: M * (mean of exp(score) - share * exp(score of the pair)) / (1 - share), and not
    less than M cells as unlike as can be (Chuang et al., NeurIPS 2020, equation 8).

    Args:
        wanted: (A,) scores of the pairs.
        rest: (A, I) scores of the others, -inf where there is none.
        share: of the others.
        most: largest score there can be; scores lie between it and its negative.
    """
    count = (rest > -torch.inf).sum(1)
    mean = (rest - most).exp().sum(1) / count.clamp(min=1)
    less = (mean - share * (wanted - most).exp()) / (1 - share)
    least = torch.tensor(-2 * most, device=rest.device).exp().clamp(min=torch.finfo(rest.dtype).tiny)
    return (less.clamp(min=least) * count).clamp(min=torch.finfo(rest.dtype).tiny).log() + most


def batch_contrast(
    pairs: Pairs, images: int, temperature: float, *, within_images: bool = False, debias: float = 0.0
) -> Contrast:
    """InfoNCE of a batch, averaged over its anchors, the same in all processes that share it.

    Args:
        pairs: of this process.
        images: of this process; all have as many.
        temperature, within_images, debias: as for ``info_nce``.

    Returns:
        with a loss whose gradients, averaged over the processes, are those of the loss of the whole batch.
    """
    anchors = normaliser(len(pairs.anchors), pairs.anchors.device) * processes()
    everywhere = pairs.everywhere(images)
    whole = info_nce(everywhere, temperature, within_images=within_images, debias=debias, divisor=anchors)
    # Each process has the part of the gradient that goes through its own vectors; their mean has to be the sum.
    loss = whole.loss
    if processes() > 1:
        loss = loss.detach() + (loss - loss.detach()) * processes()
    return replace(whole, loss=loss)
