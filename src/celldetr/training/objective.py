"""Strategy of a training run: what an objective (supervised, contrastive) supplies to the one trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from celldetr.model.checkpoint import Card
from celldetr.model.familiarity import Familiarity
from celldetr.training.trainer import TrainingLoss
from celldetr.training.validation import Numbers


@dataclass(frozen=True)
class Start:
    """The model whose weights a run starts from: its card, the weights it does not have, a note for the user, and its
    familiarity, if it has one."""

    card: Card
    new: tuple[str, ...]
    note: str
    familiarity: Familiarity | None = None


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


class Objective(ABC):
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

    @abstractmethod
    def dataset(self, length: int) -> Dataset[Any]:
        """``length`` training images."""

    @abstractmethod
    def validate(self, average: TrainingLoss) -> Validation:
        """Score the averaged weights on held-out images."""

    def initialise(self) -> None:  # noqa: B027 (most objectives have nothing to do here)
        """Set weights that depend on the data, before the first step."""

    def baseline(self, average: TrainingLoss) -> Numbers | None:
        """Numbers of the untrained network, for the log."""
        return None

    def warning(self, numbers: dict[str, float]) -> str:
        """Warning about the numbers of a logged step; "" where nothing is wrong."""
        return ""

    def draw(self, folder: Path) -> None:  # noqa: B027
        """Draw figures of the last validation, beside the curves."""
