"""Linear probe of slide identity: how well the slide of a held-out cell can be predicted from its embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from celldetr.data.sample import Sample
from celldetr.model.at_boxes import embed_boxes
from celldetr.model.celldetr import CellDETR
from celldetr.model.inference import TilePredictor
from celldetr.stain import optical_density
from celldetr.training.data import spread

MOST_IMAGES = 100  # that are embedded, spread evenly over all
PER_SLIDE, MOST_SLIDES, LEAST_CELLS = 100, 20, 10  # cells of a slide, slides, and cells a slide needs, for the probe
FOLDS = 5


@dataclass(frozen=True)
class HeldOutCells:
    """N cells of images that were not trained on.

    Attributes:
        vectors: (N, d) embeddings, at the annotated boxes.
        types: (N,) index of the type, or ``UNKNOWN``.
        slides: (N,) name of the slide or patient.
        images: (N,) index of the image.
        density: (N,) mean optical density of the image: how dark it is stained.
    """

    vectors: NDArray[np.float32]
    types: NDArray[np.int64]
    slides: NDArray[np.str_]
    images: NDArray[np.int64]
    density: NDArray[np.float32]

    def take(self, index: NDArray[np.integer]) -> HeldOutCells:
        """The cells at ``index``."""
        return HeldOutCells(*(getattr(self, each.name)[index] for each in fields(self)))

    def __len__(self) -> int:
        return len(self.vectors)


def embed_cells(network: CellDETR, samples: Sequence[Sample], device: torch.device) -> HeldOutCells:
    """Embed the boxes of at most ``MOST_IMAGES`` images, at the network's mpp, without augmentation."""
    predictor = TilePredictor(network, threshold=0.5, device=device, precision="32")  # nothing is detected
    chosen = [samples[place] for place in spread(len(samples), MOST_IMAGES)]
    chosen = [sample for sample in chosen if len(sample)]
    sizes = np.array([len(sample) for sample in chosen], np.int64)
    vectors = [embed_boxes(predictor, sample.image, sample.boxes) for sample in chosen]
    density = [optical_density(sample.image).mean() for sample in chosen]
    return HeldOutCells(
        np.concatenate([np.zeros((0, network.config.embedding_dim), np.float32), *vectors]),
        np.concatenate([np.zeros(0, np.int64), *(sample.types for sample in chosen)]),
        np.repeat([sample.group or sample.name for sample in chosen], sizes).astype(np.str_),
        np.repeat(np.arange(len(chosen)), sizes),
        np.repeat(np.array(density, np.float32), sizes),
    )


@dataclass(frozen=True)
class SlideProbe:
    """How well the slide of a cell can be predicted from its embedding.

    Attributes:
        accuracy: of a linear classifier on cells that it was not fitted to, the mean over slides.
        chance: what guessing reaches: one over the number of slides.
        slides, cells: how many took part.
        apart: what is held out: ``images`` of the same slides; or ``cells`` of the same images, where slides have one
            image each, so that recognising the image is enough.
    """

    accuracy: float
    chance: float
    slides: int
    cells: int
    apart: str


def probe_slides(cells: HeldOutCells, seed: int = 0) -> SlideProbe | None:
    """Fit a linear classifier of slides to embeddings, cross-validated; None where there are not two slides.

    An embedding of cells should not reveal the slide: its capacity for stain and scanner is lost for the cell.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import recall_score
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    usable = np.isfinite(cells.vectors).all(1)
    names, counts = np.unique(cells.slides[usable], return_counts=True)
    drawn = [
        _draw(np.flatnonzero(usable & (cells.slides == name)), cells.images, rng)
        for name in names[counts >= LEAST_CELLS]
    ]
    several = [rows for rows in drawn if len(np.unique(cells.images[rows])) >= 2]
    apart = "images" if len(several) >= 2 else "cells"
    chosen = (several if apart == "images" else drawn)[:MOST_SLIDES]
    if len(chosen) < 2:
        return None
    # Every slide's images (or cells) are dealt to the folds in turn, so that a classifier has seen all slides.
    units = [
        np.unique(cells.images[rows], return_inverse=True)[1] if apart == "images" else np.arange(len(rows))
        for rows in chosen
    ]
    folds = min(FOLDS, *(int(unit.max()) + 1 for unit in units))
    picked = np.concatenate(chosen)
    slides = np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])
    # Weighted, since a fold can leave slides with more and fewer cells, and those with the fewest would be missed most.
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500, class_weight="balanced"))
    predicted = cross_val_predict(
        classifier, cells.vectors[picked].astype(np.float64), slides, cv=PredefinedSplit(np.concatenate(units) % folds)
    )
    accuracy = float(recall_score(slides, predicted, average="macro"))
    return SlideProbe(accuracy, 1 / len(chosen), len(chosen), len(picked), apart)


def _draw(rows: NDArray[np.int64], images: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``PER_SLIDE`` of a slide's cells, as evenly over its images as these have cells."""
    rows = rng.permutation(rows)
    turn = np.zeros(len(rows), np.int64)  # of a cell among those of its image
    for image in np.unique(images[rows]):
        same = images[rows] == image
        turn[same] = np.arange(same.sum())
    return rows[np.argsort(turn, kind="stable")][:PER_SLIDE]
