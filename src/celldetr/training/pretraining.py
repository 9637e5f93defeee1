"""A run of contrastive pretraining: ``Run`` with another objective, other images, and other things to look at.

The checkpoint that is kept is the one with the least contrastive loss on held-out images, in views that are the same at
every validation. That loss needs no labels; batch, temperature and augmentation do not change within a run, so that its
values can be compared; and a network that has collapsed, or learnt its few training images by heart, has a high one.
Where there are images enough it falls to the end, and the last step is the one that is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from celldetr.data.sample import Sample
from celldetr.data.views import ViewSet, collate_views
from celldetr.errors import InputError
from celldetr.io.files import write_json
from celldetr.model.inference import TilePredictor
from celldetr.training.collapse import collapse
from celldetr.training.contrastive import Contrastive, projection_head
from celldetr.training.crops import image_generators
from celldetr.training.data import spread
from celldetr.training.figures import (
    EMBEDDING_FACTS,
    EMBEDDING_FILE,
    SIMILARITY_FILE,
    draw_embedding,
    draw_similarity,
)
from celldetr.training.held_out_cells import HeldOutCells, SlideProbe, embed_cells, probe_slides
from celldetr.training.infonce import Contrast
from celldetr.training.logs import LOG_EVERY
from celldetr.training.run import Run
from celldetr.training.validation import LOWEST_SCORE, validate
from celldetr.training.whitening import whiten

IMAGES = 200  # held-out images that are looked at, spread evenly over all
VIEWS = 64  # held-out images in the validation loss, drawn like training images, with the batch of training
FEW = 16  # cells to be told from: of a batch with fewer the rank says little
OTHER_SEED = 1_000_003  # apart from the seed of training, so that no view of a held-out image is one of training's
LEARNED = "representer.look.project.weight"
DETECTION = ("f1_detection", "f1_detection_standard", "threshold", "median_iou")

Numbers = dict[str, float | None]


class Pretraining(Run):
    """What changes while a network is pretrained; methods as of ``Run``."""

    def make_head(self) -> nn.Module:
        """The projection head."""
        return projection_head(self.recipe.model, self.recipe.training)

    def make_objective(self) -> nn.Module:
        """The network with the contrastive loss; a second one with the averaged weights is there to be validated.

        Raises:
            InputError: what is to be whitened was learned by the model that the run starts from.
        """
        settings = self.recipe.training
        if settings.contrastive.start == "whitened" and self.start is not None and LEARNED not in self.new:
            raise InputError(
                f"training.contrastive.start='whitened' would replace what init={self.recipe.init!r} has learned; use"
                " training.contrastive.start=random"
            )
        self.contrastive = Contrastive(self.network, settings, self.head)
        self.judged = Contrastive(self.average.network, settings, self.average_head.network, alone=True)
        self.validated_on: list[Sample] | None = None
        self.seen: tuple[Contrast, HeldOutCells, SlideProbe | None] | None = None  # of the last validation
        return self.contrastive

    def images(self, length: int) -> tuple[Dataset[Any], Callable[[Any], Any]]:
        """``length`` training images in their views."""
        settings, data = self.recipe.training, self.data
        augment, views = self.recipe.augment, settings.contrastive
        return ViewSet(data.samples, augment, views, settings.seed, length, data.weights), collate_views

    def gradients(self, step: int, batch: Any) -> dict[str, float]:
        """As of ``Run``; what is logged is measured."""
        self.contrastive.measure = step % LOG_EVERY == 0 or step + 1 == self.recipe.training.steps
        numbers = super().gradients(step, batch)
        self.warning = ""
        if self.contrastive.measure and numbers["embedding/chance"] > math.log(FEW):
            rank = numbers["embedding/rank"]
            self.warning = collapse(rank, self.kept.get("rank", rank), share=0)
        return numbers

    def initialise(self) -> None:
        """Whiten the content of queries, if the recipe says so."""
        if self.recipe.training.contrastive.start == "whitened":
            whiten(self.network, self.data.samples, self.fabric.device)
            self.average.network.load_state_dict(self.network.state_dict())

    def begin(self) -> Numbers:
        """Validate the network before it learns anything: what pretraining changes is seen beside this."""
        numbers = self._judge()
        for name in ("rank", "slide_accuracy"):
            if (value := numbers.get(name)) is not None:
                self.kept[name] = value
        return numbers

    def validate(self, done: int) -> Numbers:
        """Judge the averaged weights and keep them if their contrastive loss is the least so far."""
        predictor = TilePredictor(self.average.network, threshold=LOWEST_SCORE, device=self.fabric.device)
        threshold, found = validate(predictor, self._held_out())
        numbers = self._judge() | {name: found[name] for name in DETECTION}
        rank, loss = numbers["rank"], numbers["loss"]
        self.warning = collapse(rank, self.kept.get("rank", rank)) if rank is not None else ""
        score = math.exp(-loss) if loss is not None else 0.0
        if score > self.best:
            self.best = score
            self.keep(threshold, numbers, done)
        return numbers

    def illustrate(self) -> None:
        """Draw similarities and embeddings of the last validation, and write what was measured of them."""
        if self.seen is None:
            return
        contrast, cells, probe = self.seen
        draw_similarity(contrast, self.folder / SIMILARITY_FILE)
        facts: dict[str, object] = {"cells": len(cells), "before_training": dict(self.kept)}
        if len(cells) > 2:
            facts["map"] = draw_embedding(
                cells, self.recipe.model.types, self.folder / EMBEDDING_FILE, self.recipe.training.seed
            )
        facts["slide_probe"] = asdict(probe) if probe else "needs two slides with ten cells each"
        write_json(self.folder / EMBEDDING_FACTS, facts)

    @torch.no_grad()
    def _judge(self) -> Numbers:
        """Contrastive loss of the averaged weights on held-out images, what ``collapse`` watches, and the slide probe.

        Numbers are means over anchors, but for those that ``Contrastive.watch`` gives of a batch: means over batches.
        """
        settings, held_out = self.recipe.training, self._held_out()
        self.judged.eval()
        device, size = self.fabric.device, settings.batch_size
        count = max(1, round(VIEWS / size)) * size
        views = ViewSet(held_out, self.recipe.augment, settings.contrastive, settings.seed + OTHER_SEED, count)
        sums: dict[str, float] = {}
        losses = anchors = batches = 0.0
        first: Contrast | None = None
        for start in range(0, count, size):
            batch = collate_views([views[i] for i in range(start, start + size)])
            boxes, names = ([each.to(device) for each in part] for part in (batch.boxes, batch.cells))
            generators = image_generators(settings.seed + OTHER_SEED, 0, start, size)
            seen = self.judged.views(batch.images.to(device), boxes, names, generators)
            contrast, embeddings = self.judged.contrast(seen)
            if not len(contrast.own):
                continue
            first = first or contrast
            losses += float(contrast.loss) * len(contrast.own)
            anchors += len(contrast.own)
            batches += 1
            for name, value in self.judged.watch(contrast, embeddings).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        cells = embed_cells(self.average.network, held_out, device)
        probe = probe_slides(cells, settings.seed)
        self.seen = (first, cells, probe) if first else None
        numbers: Numbers = {"loss": losses / anchors if anchors else None}
        numbers |= {name.partition("/")[2]: value / batches for name, value in sums.items()}
        numbers |= {"slide_accuracy": probe.accuracy, "slide_chance": probe.chance} if probe else {}
        return {"rank": None, **numbers}

    def _held_out(self) -> list[Sample]:
        """Images to validate on, in memory: a set of patches may have any number of them."""
        if self.validated_on is None:
            images = self.data.held_out
            self.validated_on = [images[i] for i in spread(len(images), IMAGES)]
        return self.validated_on
