"""Strategy of a training run: what an objective (supervised, contrastive) supplies to the one trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from celldetr.config import TrainConfig
from celldetr.data.dataset import Targets
from celldetr.model.celldetr import CellDETR, Memories
from celldetr.model.checkpoint import Card
from celldetr.training.criterion import Losses, SetCriterion, TrainingOutput
from celldetr.training.denoising import denoising_queries
from celldetr.training.optim import freeze

ORIGIN_PX = 1024.0  # training images lie anywhere in a field of this many pixels
Numbers = dict[str, float | None]


@dataclass(frozen=True)
class EncodedImages:
    """A batch after the encoder.

    Attributes:
        memories: of B images.
        origin: (B, 2) place of each image's corner in a field of ``ORIGIN_PX``, pixels.
        sizes: (B, 2) width and height, pixels.
    """

    memories: Memories
    origin: Tensor
    sizes: Tensor


class TrainingLoss(nn.Module):
    """A network with its loss, as one module, so that data parallelism can wrap it.

    Attributes:
        network: the model; parts of it that ``config.freeze`` names have no gradient and stay in evaluation mode.
        criterion: losses of labelled boxes.
    """

    def __init__(self, network: CellDETR, config: TrainConfig, type_weights: Tensor) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.criterion = SetCriterion(config, type_weights)
        self._frozen = freeze(network, config.freeze)

    def forward(
        self, batch: Any, generators: Sequence[torch.Generator], measure: bool = False
    ) -> tuple[Tensor, Losses]:
        """Loss of a batch.

        Args:
            batch: of the objective's dataset; for images ``Batch``.
            generators: one source of all randomness an image, on the CPU.
            measure: also return diagnostics that take time; for steps that are logged.

        Returns:
            the loss, and by name its terms and diagnostics, detached.
        """
        raise NotImplementedError

    def train(self, mode: bool = True) -> TrainingLoss:
        """Set training mode, except for frozen parts, which have neither dropout nor statistics of the batch."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def encode(self, images: Tensor, generators: Sequence[torch.Generator]) -> EncodedImages:
        """Backbone and encoder on images (B, 3, H, W) uint8, each at a random place."""
        origin, sizes = random_places(images, generators)
        # Where everything before is frozen no graph is kept, and the layers take their faster ways without one.
        frozen = {"backbone", "encoder"} <= set(self.config.freeze)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return EncodedImages(self.network.memorise(images, origin=origin), origin, sizes)

    def detect(
        self, encoded: EncodedImages, targets: Sequence[Targets], generators: Sequence[torch.Generator]
    ) -> TrainingOutput:
        """Detect, with denoising queries if there are any, and match what is detected to the nuclei."""
        groups = self.config.denoising
        denoising = denoising_queries(targets, groups, generators) if groups else None
        extra = denoising.queries if denoising else None
        detection = self.network.detect(encoded.memories, encoded.origin, extra)
        matches = self.criterion.match(detection.layers, targets)
        return TrainingOutput(detection, matches, encoded.sizes, denoising)


def random_places(images: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """``origin`` and ``sizes`` of ``EncodedImages`` for images (B, 3, H, W)."""
    origin = torch.stack([torch.rand(2, generator=rng) for rng in generators]).to(images.device) * ORIGIN_PX
    sizes = images.new_tensor([images.shape[3], images.shape[2]], dtype=torch.float32).expand(len(images), 2)
    return origin, sizes


@dataclass(frozen=True)
class Start:
    """The model whose weights a run starts from.

    Attributes:
        card: of the model.
        new: names of the weights of the network that it does not have.
        note: what of it does not fit, for the user; "" where all does.
    """

    card: Card
    new: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Validation:
    """Result of a validation of the averaged weights.

    Attributes:
        score: by which the best checkpoint is chosen; larger is better.
        threshold: least score of a cell, for the checkpoint's card.
        numbers: for the log and the card.
        warning: for the user; "" where nothing is wrong.
    """

    score: float
    threshold: float
    numbers: Numbers
    warning: str = ""


class Objective:
    """What a run learns: its images, its loss, and how it is validated.

    Attributes:
        loss: the network with its loss.
        collate: the ``collate_fn`` of its dataset.
        types_trained: whether the types of the checkpoints mean anything.
        memory: JSON-able numbers that a resumed run needs.
    """

    loss: TrainingLoss
    collate: Callable[[Sequence[Any]], Any]
    types_trained: bool
    memory: dict[str, float]

    def dataset(self, length: int) -> Dataset[Any]:
        """``length`` training images."""
        raise NotImplementedError

    def validate(self, average: TrainingLoss) -> Validation:
        """Score the averaged weights on held-out images."""
        raise NotImplementedError

    def initialise(self) -> None:
        """Set weights that depend on the data, before the first step."""

    def baseline(self, average: TrainingLoss) -> Numbers | None:
        """Numbers of the untrained network, for the log."""
        return None

    def warning(self, numbers: dict[str, float]) -> str:
        """Warning about the numbers of a logged step; "" where nothing is wrong."""
        return ""

    def draw(self, folder: Path) -> None:
        """Draw figures of the last validation, beside the curves."""
