"""The cells of one tile, and what a model must offer that finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TileCells:
    """What was found in one tile, N cells in no particular order, already above the model's score threshold.

    Attributes:
        boxes: (N, 4) float32, absolute xyxy in the tile's own pixels (x right, y down, origin at its top left corner).
        scores: (N,) float32 in [0, 1], objectness.
        probabilities: (N, K) float32, of each type; a row sums to 1.
        embeddings: (N, d) float16, the representation decoder's output.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    embeddings: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> TileCells:
        """The cells at ``index`` (positions or a mask)."""
        return TileCells(self.boxes[index], self.scores[index], self.probabilities[index], self.embeddings[index])


class TileModel(Protocol):
    """What the slide engine asks of a model; ``celldetr.model.inference.TilePredictor`` is the real one."""

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of the tiles it wants."""
        ...

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the K types."""
        ...

    @property
    def embedding_dim(self) -> int:
        """d, the length of an embedding."""
        ...

    @property
    def image_px(self) -> int | None:
        """Side of the only tiles that it understands; None: of any, as long as it measures in pixels."""
        ...

    def describe(self) -> dict[str, object]:
        """Name, version, SHA-256, threshold, licence ...: what provenance should record. JSON-able."""
        ...

    def predict_tiles(self, tiles: Sequence[NDArray[np.uint8]]) -> list[TileCells]:
        """Find the cells of each (H, W, 3) uint8 RGB tile. Sizes may differ; an empty tile gives zero cells."""
        ...
