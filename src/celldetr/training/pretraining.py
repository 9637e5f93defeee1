"""Contrastive pretraining as an objective: views of images, validation by the contrastive loss, figures.

The best checkpoint is the one with the least contrastive loss on held-out images, in views that are the same at every
validation. That loss needs no labels, can be compared within a run, and is high after a collapse or overfitting.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import cast

import torch

from celldetr.config import Recipe
from celldetr.data.sample import Sample
from celldetr.data.tiling import pieces
from celldetr.data.views import ViewSet, collate_views
from celldetr.errors import InputError
from celldetr.evaluation.image_cells import LOWEST_SCORE
from celldetr.io.files import write_json
from celldetr.model.celldetr import CellDETR
from celldetr.model.inference import TilePredictor
from celldetr.training.collapse import collapse
from celldetr.training.contrastive import ContrastiveLoss, projection_head
from celldetr.training.data import TrainingData, spread, validation_px
from celldetr.training.figures import (
    EMBEDDING_FACTS,
    EMBEDDING_FILE,
    SIMILARITY_FILE,
    draw_embedding,
    draw_similarity,
)
from celldetr.training.infonce import Contrast
from celldetr.training.objective import Objective, Start, Validation
from celldetr.training.slide_probe import HeldOutCells, SlideProbe, embed_cells, probe_slides
from celldetr.training.trainer import TrainingLoss, image_generators
from celldetr.training.validation import Numbers, validate
from celldetr.training.whitening import whiten

IMAGES = 200  # held-out images that are validated on, in memory, spread evenly over all
VIEWS = 64  # held-out images in the validation loss, drawn like training images, with the batch of training
FEW = 16  # negatives: of a batch with fewer the rank says little
OTHER_SEED = 1_000_003  # apart from the seed of training, so that no view of a held-out image is one of training's
WHITENED = "representer.look.project.weight"
DETECTION = ("f1_detection", "f1_detection_standard", "threshold", "median_iou")


class ContrastiveObjective(Objective):
    """Learns to detect nuclei, and embeddings that are common to two views of a nucleus, without types."""

    def __init__(self, recipe: Recipe, network: CellDETR, data: TrainingData, start: Start | None = None) -> None:
        """Arguments as of ``SupervisedObjective``.

        Raises:
            InputError: what is to be whitened was learned by the model that the run starts from.
        """
        settings = recipe.training
        if settings.contrastive.start == "whitened" and start is not None and WHITENED not in start.new:
            raise InputError(
                f"training.contrastive.start='whitened' would replace what init={recipe.init!r} has learned; use"
                " training.contrastive.start=random"
            )
        self.recipe, self.data = recipe, data
        self.loss = ContrastiveLoss(network, settings, projection_head(recipe.model, settings))
        self.collate, self.memory, self.types_trained = collate_views, {}, False
        self._last: tuple[Contrast, HeldOutCells, SlideProbe | None] | None = None  # of the last validation

    def dataset(self, length: int) -> ViewSet:
        """See ``Objective``."""
        settings, data = self.recipe.training, self.data
        return ViewSet(
            data.samples, self.recipe.augment, settings.contrastive, settings.seed, length, weights=data.weights
        )

    def initialise(self) -> None:
        """Whiten the content of queries, if the recipe says so."""
        if self.recipe.training.contrastive.start == "whitened":
            network = self.loss.network
            whiten(network, self.data.samples, network.type_head.weight.device)

    def baseline(self, average: TrainingLoss) -> Numbers:
        """See ``Objective``."""
        numbers = self._measure(average)
        for name in ("rank", "slide_accuracy"):
            if (value := numbers.get(name)) is not None:
                self.memory[name] = value
        return numbers

    def warning(self, numbers: dict[str, float]) -> str:
        """Warning of a collapse within a batch."""
        if numbers["embedding/chance"] <= math.log(FEW):
            return ""
        rank = numbers["embedding/rank"]
        return collapse(rank, self.memory.get("rank", rank), share=0)

    def validate(self, average: TrainingLoss) -> Validation:
        """See ``Objective``; the score falls with the contrastive loss."""
        network = average.network
        predictor = TilePredictor(network, threshold=LOWEST_SCORE, device=network.type_head.weight.device)
        threshold, detection = validate(predictor, self._samples)
        numbers = self._measure(average) | {name: detection[name] for name in DETECTION}
        rank, loss = numbers["rank"], numbers["loss"]
        warning = collapse(rank, self.memory.get("rank", rank)) if rank is not None else ""
        return Validation(math.exp(-loss) if loss is not None else 0.0, threshold, numbers, warning)

    def draw(self, folder: Path) -> None:
        """Draw similarities and embeddings of the last validation, and write what was measured of them."""
        if self._last is None:
            return
        contrast, cells, probe = self._last
        draw_similarity(contrast, folder / SIMILARITY_FILE)
        facts: dict[str, object] = {"cells": len(cells), "before_training": dict(self.memory)}
        if len(cells) > 2:
            seed = self.recipe.training.seed
            facts["map"] = draw_embedding(cells, self.recipe.model.types, folder / EMBEDDING_FILE, seed)
        facts["slide_probe"] = asdict(probe) if probe else "needs two slides with ten cells each"
        write_json(folder / EMBEDDING_FACTS, facts)

    @torch.no_grad()
    def _measure(self, average: TrainingLoss) -> Numbers:
        """Contrastive loss on held-out images, diagnostics of collapse, and the slide probe.

        Numbers are means over anchors, but for the diagnostics, which are of a batch: means over batches.
        """
        settings, samples = self.recipe.training, self._samples
        loss = cast(ContrastiveLoss, average.eval())
        loss.local = True  # validation is done by one process
        device, size = loss.network.type_head.weight.device, settings.batch_size
        count = max(1, round(VIEWS / size)) * size
        views = ViewSet(samples, self.recipe.augment, settings.contrastive, settings.seed + OTHER_SEED, count)
        sums: dict[str, float] = {}
        losses = anchors = batches = 0.0
        first: Contrast | None = None
        for start in range(0, count, size):
            batch = collate_views([views[i] for i in range(start, start + size)]).to(device)
            generators = image_generators(settings.seed + OTHER_SEED, 0, start, size)
            contrast, embeddings = loss.contrast(loss.views(batch, generators))
            if not len(contrast.positive):
                continue
            first = first or contrast
            losses += float(contrast.loss) * len(contrast.positive)
            anchors += len(contrast.positive)
            batches += 1
            for name, value in loss.diagnose(contrast, embeddings).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        cells = embed_cells(loss.network, samples, device)
        probe = probe_slides(cells, settings.seed)
        self._last = (first, cells, probe) if first else None
        numbers: Numbers = {"loss": losses / anchors if anchors else None}
        numbers |= {name.partition("/")[2]: value / batches for name, value in sums.items()}
        numbers |= {"slide_accuracy": probe.accuracy, "slide_chance": probe.chance} if probe else {}
        return {"rank": None, **numbers}

    @cached_property
    def _samples(self) -> list[Sample]:
        """Images to validate on."""
        images, side = self.data.held_out, validation_px(self.recipe)
        chosen = [images[i] for i in spread(len(images), IMAGES)]
        return [piece for sample in chosen for piece in pieces(sample, side)] if side else chosen
