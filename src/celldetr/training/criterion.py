"""Losses of a labelled batch: DETR's set criterion with focal objectness, box and type losses.

Each loss is a sum divided by a count of the whole batch (``normaliser``), so that processes that share it have the
gradients of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert, box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from celldetr.config import TrainConfig
from celldetr.data.dataset import Targets, concatenate
from celldetr.model.detection import DetectionOutput, Detections
from celldetr.model.outline import outline_iou, radii_around
from celldetr.training.denoising import DenoisingQueries
from celldetr.training.matcher import ALPHA, GAMMA, HungarianMatcher, Match
from celldetr.training.processes import normaliser

APART_IOU = 0.1  # a box that overlaps no labelled nucleus more than this is not a second box of one
APART_RADII = 2.0  # nor is a token that is farther from its centre than so many radii
Losses = dict[str, Tensor]  # by name; what follows the last slash is the kind of loss, which has the weight


@dataclass(frozen=True)
class TypeOutput:
    """Type logits of some boxes of a batch.

    Attributes:
        logits: layer -> (M, K), image by image, after each layer that has a loss.
        nuclei: B tensors, which nucleus of the image each box is; None: background, of no type.
        weight: of the loss.
    """

    logits: Mapping[int, Tensor]
    nuclei: Sequence[Tensor] | None
    weight: float = 1.0


@dataclass(frozen=True)
class OutlineOutput:
    """Outlines of some boxes of a batch.

    Attributes:
        radii: (M, ``RADII``), image by image.
        boxes: (M, 4) cxcywh fractions, around whose centres they are.
        nuclei: B tensors, which nucleus of the image each box is.
    """

    radii: Tensor
    boxes: Tensor
    nuclei: Sequence[Tensor]


@dataclass(frozen=True)
class TrainingOutput:
    """What a network returns for a batch.

    Attributes:
        detection: of the detector; None: it does not learn.
        matches: of each decoder layer, from the matcher.
        sizes: (B, 2) width and height of the images, pixels.
        denoising: the extra queries of the detector; None: none.
        types: of the boxes that types are learned from.
        outlines: of the boxes that outlines are learned from.
    """

    detection: DetectionOutput | None = None
    matches: Sequence[Sequence[Match]] = ()
    sizes: Tensor | None = None
    denoising: DenoisingQueries | None = None
    types: Sequence[TypeOutput] = field(default=())
    outlines: OutlineOutput | None = None


class SetCriterion(nn.Module):
    """Computes the losses of a batch; ``type_weights`` (K,) are the weights of a cell of each type in the type loss."""

    type_weights: Tensor

    def __init__(self, config: TrainConfig, type_weights: Tensor) -> None:
        super().__init__()
        self.matcher = HungarianMatcher(config.w_class, config.w_l1, config.w_giou)
        self.config = config
        self.weights = {"class": config.w_class, "l1": config.w_l1, "giou": config.w_giou, "type": config.w_type}
        self.weights |= {
            "outline": config.w_outline,
            "composition": config.w_composition,
            "nce": config.contrastive.weight,
        }
        self.register_buffer("type_weights", type_weights, persistent=False)

    def forward(self, output: TrainingOutput, targets: Sequence[Targets]) -> Losses:
        """Losses of B images by name: ``layer0/class``, ``proposals/l1``, ``representation0/type`` ..."""
        device = targets[0].boxes.device
        nuclei = normaliser(sum(len(each) for each in targets), device)
        losses: Losses = {}
        if output.detection is not None:
            losses |= self._detection(output, output.detection, targets, nuclei)
        if output.types:
            losses |= self._types(output.types, targets, nuclei)
        if output.outlines is not None:
            losses["outline"] = outline_loss(output.outlines, targets)
        return losses

    def total(self, losses: Losses) -> Tensor:
        """Weighted sum of losses."""
        return torch.stack([self.weights[name.rpartition("/")[2]] * loss for name, loss in losses.items()]).sum()

    def match(self, layers: Sequence[Detections], targets: Sequence[Targets]) -> list[list[Match]]:
        """Matches of each of some decoder layers."""
        stacked = stack(layers)
        return self.matcher(stacked.logits.detach(), stacked.boxes.detach(), targets)

    def _detection(
        self, output: TrainingOutput, detection: DetectionOutput, targets: Sequence[Targets], nuclei: float
    ) -> Losses:
        spared = self.config.unlabelled_score
        layers = detection_losses(stack(detection.layers), targets, output.matches, nuclei, spared)
        losses = _named("layer{}", layers)
        proposals, anchors, dense = detection.proposals, detection.anchors, self.config.dense_queries
        if proposals is not None and anchors is not None and output.sizes is not None:
            if dense > 0:
                terms = dense_losses(proposals, anchors, targets, output.sizes, nuclei, spared)
                terms = {name: dense * value for name, value in terms.items()}
            else:
                matches = self.match([proposals], targets)
                (terms,) = detection_losses(stack([proposals]), targets, matches, nuclei, spared)
            losses |= {f"proposals/{name}": value for name, value in terms.items()}
        if groups := self.config.denoising:
            layers = denoising_losses(detection, output.denoising, nuclei, groups)
            losses |= _named("denoising{}", layers)
        return losses

    def _types(self, outputs: Sequence[TypeOutput], targets: Sequence[Targets], nuclei: float) -> Losses:
        """Losses of types and, where these are learned, of compositions; outputs that share a layer are added up."""
        losses: Losses = {}
        for output in outputs:
            terms: Losses = {}
            if output.nuclei is None:
                for layer, logits in output.logits.items():
                    focal = sigmoid_focal(logits, torch.zeros_like(logits))
                    terms[f"representation{layer}/type"] = focal.sum() / nuclei
            else:
                own = concatenate([each.take(index) for each, index in zip(targets, output.nuclei, strict=True)])
                labelled = normaliser(float(own.confidence[own.types >= 0].sum()), own.types.device)
                for layer, logits in output.logits.items():
                    loss = type_loss(logits, own.types, self.type_weights, labelled, own.confidence)
                    terms[f"representation{layer}/type"] = loss
                if self.config.w_composition:
                    spots = normaliser(len(own.spots[own.spots >= 0].unique()), own.types.device)
                    for layer, logits in output.logits.items():
                        loss = composition_loss(logits, own.spots, own.compositions, spots)
                        terms[f"representation{layer}/composition"] = loss
            for name, loss in terms.items():
                losses[name] = losses.get(name, torch.zeros_like(loss)) + output.weight * loss
        return losses


def stack(layers: Sequence[Detections]) -> Detections:
    """Layers as one: boxes (L, B, Q, 4) and logits (L, B, Q)."""
    return Detections(torch.stack([each.boxes for each in layers]), torch.stack([each.logits for each in layers]))


def _named(prefix: str, layers: Sequence[Losses]) -> Losses:
    return {f"{prefix.format(i)}/{name}": value for i, layer in enumerate(layers) for name, value in layer.items()}


def sigmoid_focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss of each element, with the settings of the matching cost; same shape as ``logits``."""
    return sigmoid_focal_loss(logits, targets, ALPHA, GAMMA)


def box_losses(boxes: Tensor, targets: Tensor, nuclei: float) -> tuple[Tensor, Tensor]:
    """L1 and GIoU loss of matched boxes (..., M, 4), cxcywh fractions: (...) sums divided by ``nuclei``."""
    l1 = (boxes - targets).abs().sum((-2, -1)) / nuclei
    corners = [box_convert(each, "cxcywh", "xyxy") for each in (boxes, targets)]
    # The default epsilon is for boxes in pixels: it would move the loss of small nuclei, whose area is 1e-4, by 4e-5.
    giou = generalized_box_iou_loss(corners[0], corners[1], eps=torch.finfo(boxes.dtype).tiny)
    return l1, giou.sum(-1) / nuclei


def detection_losses(
    detections: Detections,
    targets: Sequence[Targets],
    matches: Sequence[Sequence[Match]],
    nuclei: float,
    unlabelled_score: float = 1.0,
) -> list[Losses]:
    """One-to-one losses of each of L layers.

    Args:
        detections: boxes (L, B, Q, 4) and logits (L, B, Q).
        targets: B.
        matches: of each layer, from the matcher.
        nuclei: divisor of the sums.
        unlabelled_score: boxes without a nucleus that score more may be of one without a label
            (``maybe_unlabelled``), and have no objectness loss; 1: all have.
    """
    image, query = (torch.stack(parts) for parts in zip(*map(query_indices, matches), strict=True))  # (L, M)
    layer = torch.arange(len(matches), device=image.device)[:, None]
    target_scores = torch.zeros_like(detections.logits)
    target_scores[layer, image, query] = 1.0
    counted = detections.logits > torch.finfo(detections.logits.dtype).min  # padding does not take part
    if unlabelled_score < 1:
        counted &= (target_scores > 0) | ~maybe_unlabelled(detections, targets, unlabelled_score)
    objectness = (sigmoid_focal(detections.logits, target_scores) * counted).sum((1, 2)) / nuclei
    true = torch.stack([torch.cat([t.boxes[i] for (_, i), t in zip(m, targets, strict=True)]) for m in matches])
    l1, giou = box_losses(detections.boxes[layer, image, query], true, nuclei)
    terms = zip(objectness.unbind(), l1.unbind(), giou.unbind(), strict=True)
    return [dict(zip(("class", "l1", "giou"), values, strict=True)) for values in terms]


def maybe_unlabelled(detections: Detections, targets: Sequence[Targets], score: float) -> Tensor:
    """(L, B, Q) boxes that score more than ``score`` and overlap no labelled nucleus.

    Annotators leave nuclei out, and a loss that punishes finding them teaches to miss their like. In an image without
    labelled nuclei there is nothing to be found, and no box is meant.
    """
    maybe = detections.logits.detach().sigmoid() > score
    corners = box_convert(detections.boxes.detach(), "cxcywh", "xyxy")
    for b, target in enumerate(each.boxes for each in targets):
        if len(target):
            overlap = box_iou(corners[:, b].flatten(0, 1), box_convert(target, "cxcywh", "xyxy")).amax(1)
            maybe[:, b] &= (overlap < APART_IOU).view(len(maybe), -1)
        else:
            maybe[:, b] = False
    return maybe


def query_indices(matches: Sequence[Match]) -> tuple[Tensor, Tensor]:
    """Matches of a batch -> (M,) image and (M,) query indices of all matched queries, image by image."""
    image = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(matches)])
    return image, torch.cat([query for query, _ in matches])


def dense_losses(
    detections: Detections,
    anchors: Tensor,
    targets: Sequence[Targets],
    sizes: Tensor,
    nuclei: float,
    unlabelled_score: float = 1.0,
) -> Losses:
    """One-to-many losses of the encoder's tokens, which compete to become queries.

    One-to-one matching teaches one token in a hundred. Here the target of a token's score is a Gaussian around each
    nucleus, 1 at the nearest token (penalty-reduced focal loss of CornerNet and CenterNet), and every token inside a
    nucleus learns its box.

    Args:
        detections: proposals of T tokens, boxes (B, T, 4), logits (B, T).
        anchors: (B, T, 4) where the tokens are, cxcywh fractions.
        targets: B.
        sizes: (B, 2) width and height of the images, pixels.
        nuclei: divisor of the sums.
        unlabelled_score: as for ``detection_losses``, of tokens away from all labelled nuclei.
    """
    heat = torch.zeros_like(detections.logits)
    real = detections.logits > torch.finfo(detections.logits.dtype).min  # padding does not take part
    counted = real.clone()
    picked_boxes, picked_targets = [], []
    for b, target in enumerate(each.boxes for each in targets):
        if not len(target):
            continue
        # (T, N) pixels along x and y; coordinates apart, because operations on pairs take several times as long.
        scaled, size = anchors[b, :, :2] * sizes[b], target * sizes[b].repeat(2)
        x, y = (scaled[:, None, axis] - size[None, :, axis] for axis in (0, 1))
        half = (size[:, 2:] / 2).clamp(min=2.0)
        across, down = x / half[:, 0], y / half[:, 1]  # 1 on the border of the box
        closeness, nearest = (across.square() + down.square()).min(dim=1)
        heat[b] = torch.exp(-2.0 * closeness)  # sigma is half the half side
        apart = closeness > APART_RADII**2
        counted[b] &= ~(apart & (detections.logits[b].detach().sigmoid() > unlabelled_score))
        squared = (x.square() + y.square()).masked_fill(~real[b, :, None], torch.inf)
        centres = squared.argmin(dim=0)  # (N,) token of each nucleus
        heat[b, centres] = 1.0
        token = torch.arange(len(nearest), device=nearest.device)
        inside = torch.maximum(across[token, nearest].abs(), down[token, nearest].abs()) < 0.8
        inside[centres] = True
        inside &= real[b]
        picked_boxes.append(detections.boxes[b, inside])
        picked_targets.append(target[nearest[inside]])
    p = detections.logits.sigmoid()
    positive = (1 - p) ** 2 * -functional.logsigmoid(detections.logits)
    negative = (1 - heat) ** 4 * p**2 * -functional.logsigmoid(-detections.logits)
    objectness = torch.where(heat == 1.0, positive, negative)[counted].sum() / nuclei
    # Averaged over the tokens, so that the sum weighs as much as that of the one-to-one losses does.
    picked = normaliser(sum(len(boxes) for boxes in picked_boxes), detections.boxes.device)
    if not picked_boxes:
        zero = detections.boxes.sum() * 0
        return {"class": objectness, "l1": zero, "giou": zero}
    l1, giou = box_losses(torch.cat(picked_boxes), torch.cat(picked_targets), picked)
    return {"class": objectness, "l1": l1, "giou": giou}


def denoising_losses(
    output: DetectionOutput, denoising: DenoisingQueries | None, nuclei: float, groups: int
) -> list[Losses]:
    """Objectness, L1 and GIoU of the denoising queries, of each decoder layer; all 0 in a batch without a nucleus.

    Args:
        output: of the detector.
        denoising: the queries; None: the batch has no nucleus.
        nuclei: divisor of the sums.
        groups: of noised boxes; the losses are means over them.
    """
    if denoising is None:
        zero = output.last.logits.sum() * 0
        return [{"class": zero, "l1": zero, "giou": zero} for _ in output.layers]
    positive = denoising.near & denoising.real
    losses = []
    for layer in output.extra:
        focal = sigmoid_focal(layer.logits, positive.to(layer.logits.dtype)) * denoising.real
        l1, giou = box_losses(layer.boxes[positive], denoising.boxes[positive], nuclei * groups)
        losses.append({"class": focal.sum() / (nuclei * groups), "l1": l1, "giou": giou})
    return losses


def type_loss(logits: Tensor, types: Tensor, weights: Tensor, labelled: float, confidence: Tensor) -> Tensor:
    """Sigmoid focal loss of types; cells of unknown type (-1) are left out.

    Args:
        logits: (M, K).
        types: (M,) index of the type, or -1.
        weights: (K,) weight of a cell of each type.
        labelled: divisor: sum of the confidences of the cells of known type in the batch.
        confidence: (M,) weight of each cell, in [0, 1].
    """
    known = types >= 0
    logits, types = logits[known], types[known]
    one_hot = functional.one_hot(types, logits.shape[-1]).to(logits.dtype)
    weight = weights[types, None] * confidence[known, None]
    return (sigmoid_focal(logits, one_hot) * weight).sum() / labelled


def outline_loss(output: OutlineOutput, targets: Sequence[Targets]) -> Tensor:
    """1 - IoU of outlines (``outline_iou``), mean over the boxes whose nucleus has a mask; 0 where none has."""
    true = torch.cat([each.outlines[nuclei] for each, nuclei in zip(targets, output.nuclei, strict=True)])
    known = true.isfinite().flatten(1).all(1)
    masked = normaliser(int(known.sum()), true.device)
    radii = radii_around(output.boxes[known], true[known])
    return (1 - outline_iou(output.radii[known], radii)).sum() / masked


def composition_loss(logits: Tensor, spots: Tensor, compositions: Tensor, divisor: float) -> Tensor:
    """KL(composition || mean softmax over the nuclei of a spot), summed over the spots that have nuclei.

    Args:
        logits: (M, K) of nuclei.
        spots: (M,) the spot of each nucleus, or -1.
        compositions: (S, K), share of each type.
        divisor: spots with nuclei in the batch.
    """
    inside = spots >= 0
    exact = torch.promote_types(logits.dtype, torch.float32)
    spots, log_p = spots[inside], logits[inside].to(exact).log_softmax(-1)
    if not len(spots):
        return logits.sum() * 0
    present, spots = spots.unique(return_inverse=True)
    target = compositions[present].to(log_p.dtype)
    index = spots[:, None].expand_as(log_p)
    # Sums of probabilities that may all be too small for a float: relative to the largest of each spot and type.
    top = log_p.detach().new_full(target.shape, -torch.inf).scatter_reduce(0, index, log_p.detach(), "amax")
    sums = torch.zeros_like(target).index_add(0, spots, (log_p - top[spots]).exp())
    count = torch.bincount(spots, minlength=len(present)).to(log_p.dtype)
    mean = top + sums.log() - count.log()[:, None]
    return (torch.special.xlogy(target, target) - target * mean).sum() / divisor


def class_weights(counts: Sequence[float], exponent: float) -> Tensor:
    """(K,) type weights: inverse frequency to the power ``exponent``, averaging 1 over the cells.

    ``counts`` are of the cells drawn of each type, up to a factor; types with none get the weight of the rarest one.
    """
    count = torch.tensor(counts, dtype=torch.float32)
    present = count[count > 0]
    if not len(present):
        return torch.ones(len(count))
    weight = count.clamp(min=float(present.min())) ** -exponent
    return weight * count.sum() / (weight * count).sum()
