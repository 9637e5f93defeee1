"""The cells of one tile, and what a model must offer that finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TileCells:
    """Detected cells of one image, N of them, above a score threshold.

    Attributes:
        boxes: (N, 4), absolute xyxy (x right, y down). Of a tile, as a model returns them: float32, in its own pixels.
            Of a slide or an image, without the duplicates of ``slide.seams``: float64, in its level-0 pixels.
        scores: (N,) float32 in [0, 1], objectness.
        probabilities: (N, K) float32, of each type; a row sums to 1.
        embeddings: (N, d) float16, the representation decoder's output.
        radii: (N, ``RADII``) float16, outlines in the boxes (``celldetr.outlines``); None of a model without outlines.
        stains: (N, 4) float32, haematoxylin and eosin in the outlines or, without, in the ellipses in the boxes
            (``celldetr.measure.stains``); None of what has not looked.
        familiarity: (N,) float32 in [0, 1], the share of training nuclei that are as strange (``model.familiarity``);
            None of a model that does not know.
    """

    boxes: NDArray[np.floating]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    embeddings: NDArray[np.float16]
    radii: NDArray[np.float16] | None = None
    stains: NDArray[np.float32] | None = None
    familiarity: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> TileCells:
        """The cells at ``index`` (positions or a mask)."""
        return TileCells(**{name: values[index] for name, values in self.columns().items()})

    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays that there are, by name."""
        return {name: values for name, values in vars(self).items() if values is not None}

    @classmethod
    def join(cls, parts: Sequence[TileCells]) -> TileCells:
        """All cells of at least one part, part by part."""
        filled = [part.columns() for part in parts if len(part)] or [parts[0].columns()]
        return cls(**{name: np.concatenate([part[name] for part in filled]) for name in filled[0]})

    @classmethod
    def none(cls, types: int, embedding_dim: int) -> TileCells:
        """No cells, of a model with ``types`` types and embeddings of length ``embedding_dim``."""
        return cls(
            np.zeros((0, 4)),
            np.zeros(0, np.float32),
            np.zeros((0, types), np.float32),
            np.zeros((0, embedding_dim), np.float16),
        )


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

    def predict_tiles(self, tiles: Sequence[NDArray[np.uint8]], least_score: float | None = None) -> list[TileCells]:
        """Find the cells of each (H, W, 3) uint8 RGB tile that score at least ``least_score`` (None: the threshold).

        Sizes may differ; an empty tile gives zero cells.
        """
        ...
