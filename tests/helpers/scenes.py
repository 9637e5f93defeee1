"""Cells without images, samples without tissue, and a model that says what it is told: the material of these tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celldetr.data.sample import Sample
from celldetr.evaluation.image_cells import ImageCells
from celldetr.model.output import TileCells

TYPES = ("neoplastic", "inflammatory", "connective")


def boxes_at(xy: ArrayLike, size: float = 8.0) -> NDArray[np.float64]:
    xy = np.asarray(xy, float).reshape(-1, 2)
    return np.concatenate([xy - size / 2, xy + size / 2], axis=1)


def image(
    pred: ArrayLike = (),
    true: ArrayLike = (),
    *,
    pred_types: ArrayLike | None = None,
    true_types: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    type_scores: ArrayLike | None = None,
    mpp: float = 0.25,
    name: str = "image",
    group: str = "",
    tissue: str = "",
    derived_boxes: bool = False,
) -> ImageCells:
    pred_xy, true_xy = (np.asarray(xy, float).reshape(-1, 2) for xy in (pred, true))
    return ImageCells(
        name=name,
        group=group,
        mpp=mpp,
        pred_xy=pred_xy,
        pred_boxes=boxes_at(pred_xy),
        pred_scores=np.asarray(np.full(len(pred_xy), 0.9) if scores is None else scores, float),
        pred_types=np.asarray(np.zeros(len(pred_xy)) if pred_types is None else pred_types, np.int64),
        pred_type_scores=np.asarray(np.ones(len(pred_xy)) if type_scores is None else type_scores, float),
        true_xy=true_xy,
        true_boxes=boxes_at(true_xy),
        true_types=np.asarray(np.zeros(len(true_xy)) if true_types is None else true_types, np.int64),
        tissue=tissue,
        derived_boxes=derived_boxes,
    )


def random_image(
    seed: int, *, side: float = 90.0, name: str = "image", group: str = "", unknown: bool = True
) -> ImageCells:
    """Crowded, with misses, extras, wrong types, and cells of unknown type; no two distances are alike."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(0, side, (int(rng.integers(0, 14)), 2))
    seen = true[rng.random(len(true)) < 0.8]
    pred = np.concatenate([seen + rng.normal(0, 5, seen.shape), rng.uniform(0, side, (int(rng.integers(0, 5)), 2))])
    return image(
        pred,
        true,
        pred_types=rng.integers(0, 3, len(pred)),
        true_types=rng.integers(-1 if unknown else 0, 3, len(true)),
        scores=rng.random(len(pred)),
        type_scores=rng.uniform(0.4, 1, len(pred)),
        name=name,
        group=group,
    )


def sample(
    points: ArrayLike,
    types: Sequence[int] | None = None,
    *,
    name: str = "tile",
    mpp: float = 0.25,
    group: str = "",
    type_names: tuple[str, ...] = TYPES,
    pixel: int = 0,
) -> Sample:
    """A labelled image of one flat colour, ``pixel``, by which a model can know it."""
    xy = np.asarray(points, np.float32).reshape(-1, 2)
    return Sample(
        name=name,
        image=np.full((64, 64, 3), pixel, np.uint8),
        mpp=mpp,
        boxes=boxes_at(xy).astype(np.float32),
        types=np.asarray(np.zeros(len(xy)) if types is None else types, np.int64),
        type_names=type_names,
        points=xy,
        group=group,
    )


def tile_cells(points: ArrayLike, types: Sequence[int], scores: Sequence[float], n_types: int = 3) -> TileCells:
    return TileCells(
        boxes=boxes_at(points).astype(np.float32),
        scores=np.asarray(scores, np.float32),
        probabilities=np.eye(n_types, dtype=np.float32)[np.asarray(types, int)].reshape(-1, n_types),
        embeddings=np.zeros((len(types), 4), np.float16),
    )


class Oracle:
    """Answers each flat image with the cells prepared for its colour, and counts how often it was asked."""

    def __init__(self, answers: dict[int, TileCells]) -> None:
        self.answers = answers
        self.asked: list[tuple[int, float]] = []

    def __call__(self, pixels: NDArray[np.uint8], mpp: float) -> TileCells:
        self.asked.append((int(pixels[0, 0, 0]), mpp))
        return self.answers[int(pixels[0, 0, 0])]


def perfect(samples: Sequence[Sample]) -> Oracle:
    """A model that returns the truth."""
    return Oracle({int(s.image[0, 0, 0]): tile_cells(s.points, s.types.tolist(), [0.9] * len(s)) for s in samples})
