"""Supervised training on labelled nuclei: detection, and types by one of the modes of ``training.mode``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from celldetr.config import Recipe
from celldetr.data.dataset import Batch, Targets, TrainingSet, collate
from celldetr.data.sample import LazySamples
from celldetr.errors import InputError
from celldetr.evaluation.image_cells import LOWEST_SCORE
from celldetr.model.celldetr import CellDETR, Memories, Representations
from celldetr.model.inference import TilePredictor
from celldetr.model.representation import hide_padding
from celldetr.training.box_sources import BoxSource, MatchedBoxes, box_sources
from celldetr.training.criterion import Losses, OutlineOutput, TrainingOutput, TypeOutput, class_weights
from celldetr.training.data import TrainingData, validation_px
from celldetr.training.matcher import Match
from celldetr.training.objective import Objective, Start, Validation
from celldetr.training.trainer import EncodedImages, TrainingLoss
from celldetr.training.validation import validate, validate_labelled


class SupervisedLoss(TrainingLoss):
    """A network with the losses of boxes and types."""

    def forward(
        self, batch: Batch, generators: Sequence[torch.Generator], measure: bool = False
    ) -> tuple[Tensor, Losses]:
        """See ``TrainingLoss``."""
        config, targets = self.config, batch.targets
        encoded = self.encode(batch.images, generators)
        output = TrainingOutput()
        detected: MatchedBoxes = []
        if not config.detection_frozen:
            output = self.detect(encoded, targets, generators)
            assert output.detection is not None
            detected = matched_boxes(output.detection.last.boxes.detach(), output.matches[-1])
        elif config.mode in ("sequential", "mixed"):
            detected = self._detect_frozen(encoded, targets)
        outlines = self.network.outliner is not None and config.w_outline > 0
        sources = box_sources(config, detected, targets, generators) if outlines or config.learns_types else []
        if self.network.representer is None:
            output = replace(output, types=self._query_types(output))
        elif config.learns_types:
            output = replace(output, types=self.box_types(encoded.memories, encoded.origin, sources))
        if outlines:
            output = replace(output, outlines=self._outlines(encoded.memories, sources))
        losses = self.criterion(output, targets)
        return self.criterion.total(losses), {name: value.detach() for name, value in losses.items()}

    @torch.no_grad()
    def _detect_frozen(self, encoded: EncodedImages, targets: Sequence[Targets]) -> MatchedBoxes:
        """Matched boxes of a detector that does not learn."""
        last = self.network.detect(encoded.memories, encoded.origin).last
        return matched_boxes(last.boxes, self.criterion.match([last], targets)[0])

    def box_types(self, memories: Memories, origin: Tensor, sources: Sequence[BoxSource]) -> list[TypeOutput]:
        """Type logits of the boxes of one or more sources, by the representation decoder; ``origin`` is (B, 2) px."""
        # All boxes of an image in one row, source by source: (B, R, 4), and the source of each, -1 for padding.
        images = list(zip(*(each.boxes for each in sources), strict=True))
        boxes = pad_sequence([torch.cat(parts) for parts in images], batch_first=True)
        order = torch.arange(len(sources), device=boxes.device)
        numbers = [
            order.repeat_interleave(torch.tensor([len(part) for part in parts], device=boxes.device))
            for parts in images
        ]
        source = pad_sequence(numbers, batch_first=True, padding_value=-1)
        blocked = None
        if self.network.config.self_attention == "after_first":
            # Unmatched queries are background that a trained detector does not report: cells see cells only, and of a
            # cell that is there twice, detected and true, one does not see the other.
            blocked = hide_padding(source >= 0) | (source[:, None, :, None] != source[:, None, None, :])
        layers = self._layers_with_loss(self.network.represent(memories, boxes, origin, blocked))
        return [
            TypeOutput({layer: logits[source == i] for layer, logits in layers.items()}, each.nuclei, each.weight)
            for i, each in enumerate(sources)
        ]

    def _outlines(self, memories: Memories, sources: Sequence[BoxSource]) -> OutlineOutput:
        """Outlines of all boxes that are of a nucleus."""
        own = [(each.boxes, each.nuclei) for each in sources if each.nuclei is not None]
        boxes = [torch.cat(parts) for parts in zip(*(boxes for boxes, _ in own), strict=True)]
        nuclei = [torch.cat(parts) for parts in zip(*(nuclei for _, nuclei in own), strict=True)]
        radii = self.network.outline(memories, pad_sequence(boxes, batch_first=True))
        drawn = torch.cat([row[: len(part)] for row, part in zip(radii, boxes, strict=True)])
        return OutlineOutput(drawn, torch.cat(boxes), nuclei)

    def _query_types(self, output: TrainingOutput) -> list[TypeOutput]:
        """Type logits of the matched queries of each decoder layer, where there is no representation decoder."""
        assert output.detection is not None
        chosen = [pad_sequence([query for query, _ in layer], batch_first=True) for layer in output.matches]
        layers = self._layers_with_loss(self.network.read_queries(output.detection, chosen))
        outputs = []
        for (i, logits), matches in zip(layers.items(), output.matches[-len(layers) :], strict=True):
            matched = torch.cat([logits[b, : len(query)] for b, (query, _) in enumerate(matches)])
            outputs.append(TypeOutput({i: matched}, [nucleus for _, nucleus in matches]))
        return outputs

    def _layers_with_loss(self, cells: Representations) -> dict[int, Tensor]:
        layers = [*cells.auxiliary, cells.logits] if self.config.auxiliary_types else [cells.logits]
        return dict(enumerate(layers))


def matched_boxes(boxes: Tensor, matches: Sequence[Match]) -> MatchedBoxes:
    """Of each image the boxes that were matched to a nucleus; ``boxes`` is (B, Q, 4)."""
    return [(boxes[b, query], nucleus) for b, (query, nucleus) in enumerate(matches)]


class SupervisedObjective(Objective):
    """Learns to detect labelled nuclei, and their types."""

    def __init__(self, recipe: Recipe, network: CellDETR, data: TrainingData, start: Start | None = None) -> None:
        """Freeze parts of the network.

        Args:
            recipe: of the run.
            network: to be trained.
            data: of the recipe.
            start: the model whose weights the network has.
        """
        settings = recipe.training
        learned_before = start is not None and start.card.config.outlines
        if network.outliner is not None and not learned_before and not data.outlined:
            raise InputError(
                "model.outlines=true, and no training image has masks to learn outlines from: add a data set "
                "with masks (docs/how-to/data.md says which formats have them), or set model.outlines=false"
            )
        if settings.outlines_only and start is not None and start.card.config.types != network.config.types:
            raise InputError(
                f"outlines alone are learned: leave model.types as init has them, {start.card.config.types}"
            )
        compared = () if isinstance(data.held_out, LazySamples) else data.held_out  # patches have no masks
        if settings.outlines_only and all(sample.masks is None for sample in compared):
            raise InputError(
                "outlines alone are learned, and no validation image has masks to compare them with: name a data set"
                " with masks under validation"
            )
        self.recipe, self.data, self.start = recipe, data, start
        self.loss = SupervisedLoss(network, settings, class_weights(data.drawn, settings.class_balance))
        self.collate, self.memory = collate, {}
        learned = settings.learns_types and (sum(data.counts) > 0 or settings.w_composition > 0)
        self.types_trained = learned or (start is not None and start.card.types_trained)

    def dataset(self, length: int) -> TrainingSet:
        """See ``Objective``."""
        data, settings = self.data, self.recipe.training
        # Where compositions are learned, images without a cell of known type are of use, too.
        around_cells = settings.labels == "some" and sum(data.counts) > 0 and not settings.w_composition
        augment = self.recipe.augment
        return TrainingSet(data.samples, augment, settings.seed, length, data.weights, around_cells=around_cells)

    def validate(self, average: TrainingLoss) -> Validation:
        """Mean of detection F1 and type F1, or of what stands for them where not everything is labelled; of outlines
        alone the median IoU of their masks."""
        network = average.network
        predictor = TilePredictor(network, threshold=LOWEST_SCORE, device=network.type_head.weight.device)
        side = validation_px(self.recipe)
        if self.start is not None and self.recipe.training.outlines_only:
            threshold, numbers = validate(predictor, self.data.held_out, side, self.start.card.threshold)
            told = {name: numbers.get(name) for name in ("f1_detection", "median_iou", "median_mask_iou", "threshold")}
            return Validation(told["median_mask_iou"] or 0.0, threshold, told)
        if self.start is not None and self.recipe.training.labels == "some":
            # The start's threshold was chosen where every nucleus is labelled.
            threshold = self.start.card.threshold
            numbers = validate_labelled(predictor, self.data.held_out, threshold, side)
        else:
            threshold, numbers = validate(predictor, self.data.held_out, side)
        score = numbers.get("f1_detection") or 0.0
        if self.recipe.training.learns_types:
            types = numbers.get("f1_type_mean")
            if types is None:  # no cell has one, but spots have compositions
                types = numbers.get("composition_agreement")
            score = (score + (types or 0.0)) / 2
        return Validation(score, threshold, numbers)
