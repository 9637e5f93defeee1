"""How much an embedding knows of where its cell lies: readout of place, shifts, and pixels beyond the box.

Location-feature decoupling promises that where a cell is does not enter what it looks like. Three measurements test it
on trained weights, at given boxes:

- **Readout**: tiles are embedded one by one, and a ridge regression (and a small multi-layer perceptron beside it)
  predicts each cell's place in its tile, x, y and the distance to the border, on images that it was not fitted on.
  R2 = 0: the embedding says nothing about the place; R2 = 1: it says it exactly.
- **Shifts**: the same pixels are embedded with another origin of coordinates, and the same cells in another tile
  (shifted by half a tile over the image). The movement is given in units of the spread of embeddings: the root mean
  square distance of two vectors of a cell over the root mean square distance of a cell from the mean of all cells.
- **Surroundings**: everything farther than a margin from a cell's box is painted over with the image's mean colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.data.sample import Sample
from celldetr.probe.classify import standardise

TARGETS = ("x", "y", "border")
FOLDS = 5
RIDGE = 10.0  # penalty of the squared weights, on standardised embeddings
HIDDEN = 64  # units of the perceptron's one hidden layer


@dataclass(frozen=True)
class TileCells:
    """N cells of tiles.

    Attributes:
        embeddings: (N, d).
        places: (N, 3) x, y and the distance to the nearest border, as fractions of the tile's side.
        images: (N,) index of the image that a cell's tile is from.
    """

    embeddings: NDArray[np.float32]
    places: NDArray[np.float64]
    images: NDArray[np.int64]


def tiles_of(sample: Sample, side: int, start: int = 0) -> list[tuple[int, int]]:
    """(x, y) corners of the whole tiles of ``side`` pixels in an image, the first at (``start``, ``start``)."""
    height, width = sample.image.shape[:2]
    return [(x, y) for y in range(start, height - side + 1, side) for x in range(start, width - side + 1, side)]


def place_of(centres: NDArray[np.floating], side: int) -> NDArray[np.float64]:
    """(N, 2) centres in pixels of their tile -> (N, 3) x, y and distance to the border, fractions of ``side``."""
    relative = np.asarray(centres, np.float64) / side
    return np.column_stack([relative, np.minimum(relative, 1 - relative).min(1)])


def readout(cells: TileCells, seed: int = 0) -> dict[str, dict[str, float]]:
    """R2 of the place read from embeddings, on images that the regressions were not fitted on.

    Args:
        cells: of at least ``FOLDS`` images.
        seed: of the folds and of the perceptron's start.

    Returns:
        ``{"ridge": {"x": R2, "y": R2, "border": R2}, "mlp": {...}}``, pooled over the folds.
    """
    rng = np.random.default_rng(seed)
    names, which = np.unique(cells.images, return_inverse=True)
    fold = (rng.permutation(len(names)) % FOLDS)[which]
    predicted = {name: np.empty_like(cells.places) for name in ("ridge", "mlp")}
    base = np.empty_like(cells.places)  # the mean place of the cells that were fitted on
    for k in range(FOLDS):
        out = fold == k
        train, test = standardise(cells.embeddings[~out], cells.embeddings[out])
        base[out] = cells.places[~out].mean(0)
        predicted["ridge"][out] = _ridge(train, cells.places[~out], test)
        predicted["mlp"][out] = _perceptron(train, cells.places[~out], test, seed)
    total = ((cells.places - base) ** 2).sum(0)
    return {
        name: dict(zip(TARGETS, (1 - ((cells.places - guess) ** 2).sum(0) / total).tolist(), strict=True))
        for name, guess in predicted.items()
    }


def _ridge(train: NDArray, places: NDArray[np.float64], test: NDArray) -> NDArray[np.float64]:
    from sklearn.linear_model import Ridge

    return np.asarray(Ridge(alpha=RIDGE).fit(train, places).predict(test))


def _perceptron(train: NDArray, places: NDArray[np.float64], test: NDArray, seed: int) -> NDArray[np.float64]:
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(hidden_layer_sizes=(HIDDEN,), early_stopping=True, max_iter=100, random_state=seed, alpha=1e-2)
    return np.asarray(model.fit(train, places).predict(test))


def movement(before: NDArray[np.floating], after: NDArray[np.floating]) -> float:
    """Root mean square distance of the vectors of the same cells over the spread of those before."""
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    spread = ((first - first.mean(0)) ** 2).sum(1).mean()
    return float(np.sqrt(((first - second) ** 2).sum(1).mean() / spread))


def occluded(image: NDArray[np.uint8], box: Sequence[float], margin: float) -> NDArray[np.uint8]:
    """The image with everything farther than ``margin`` pixels from a box (xyxy) in the image's mean colour."""
    height, width = image.shape[:2]
    x0, y0 = (max(0, int(np.floor(v - margin))) for v in box[:2])
    x1, y1 = (min(n, int(np.ceil(v + margin))) for v, n in zip(box[2:], (width, height), strict=True))
    painted = np.broadcast_to(image.mean((0, 1)).round().astype(np.uint8), image.shape).copy()
    painted[y0:y1, x0:x1] = image[y0:y1, x0:x1]
    return painted
