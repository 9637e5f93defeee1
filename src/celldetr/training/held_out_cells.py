"""Embeddings of the cells that are validated on, with what they may wrongly have learnt: which slide they are from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from celldetr.data.sample import UNKNOWN, Sample
from celldetr.data.stain import optical_density
from celldetr.model.at_boxes import embed_boxes
from celldetr.model.celldetr import CellDETR
from celldetr.model.inference import TilePredictor
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
        colours: (N, 3) mean colour of the image, in [0, 1].
    """

    vectors: NDArray[np.float32]
    types: NDArray[np.int64]
    slides: NDArray[np.str_]
    images: NDArray[np.int64]
    density: NDArray[np.float32]
    colours: NDArray[np.float32]

    def take(self, index: NDArray[np.integer]) -> HeldOutCells:
        """The cells at ``index``."""
        parts = self.vectors, self.types, self.slides, self.images, self.density, self.colours
        return HeldOutCells(*(part[index] for part in parts))

    def __len__(self) -> int:
        return len(self.vectors)


def embed_cells(network: CellDETR, samples: Sequence[Sample], device: torch.device) -> HeldOutCells:
    """Embed the boxes of at most ``MOST_IMAGES`` images, as they are, without augmentation.

    Args:
        network: in evaluation mode.
        samples: at the network's mpp.
        device: of the network.
    """
    parts: list[HeldOutCells] = []
    predictor = TilePredictor(network, threshold=0.5, device=device, precision="32")  # nothing is detected
    for place in spread(len(samples), MOST_IMAGES):
        sample = samples[place]
        n = len(sample)
        if not n:
            continue
        vectors = embed_boxes(predictor, sample.image, sample.boxes)
        parts.append(
            HeldOutCells(
                vectors,
                sample.types,
                np.full(n, sample.group or sample.name),
                np.full(n, place, np.int64),
                np.full(n, optical_density(sample.image).mean(), np.float32),
                np.tile(sample.image.mean((0, 1), dtype=np.float64) / 255, (n, 1)).astype(np.float32),
            )
        )
    if not parts:
        none = np.zeros(0)
        return HeldOutCells(
            np.zeros((0, network.config.embedding_dim), np.float32),
            none.astype(np.int64),
            none.astype(np.str_),
            none.astype(np.int64),
            none.astype(np.float32),
            np.zeros((0, 3), np.float32),
        )
    names = ("vectors", "types", "slides", "images", "density", "colours")
    return HeldOutCells(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class SlideProbe:
    """How well a cell's slide can be told from its embedding.

    Attributes:
        accuracy: of a linear classifier on cells that it was not fitted to, the mean over slides.
        chance: what guessing reaches: one over the number of slides.
        slides, cells: how many took part.
        apart: ``images``: fitted and judged on different images of the same slides; ``cells``: on different cells of
            the same images, where slides have one image each, so that telling the image is enough.
    """

    accuracy: float
    chance: float
    slides: int
    cells: int
    apart: str


def probe_slides(cells: HeldOutCells, seed: int = 0) -> SlideProbe | None:
    """Fit a linear classifier of slides to embeddings, cross-validated; None where there are not two slides.

    An embedding of cells should not tell the slide: what it says of stain and scanner it cannot say of the cell.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import recall_score
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    usable = np.isfinite(cells.vectors).all(1)
    names, counts = np.unique(cells.slides[usable], return_counts=True)
    names = names[counts >= LEAST_CELLS]
    images = {str(name): len(np.unique(cells.images[usable & (cells.slides == name)])) for name in names}
    several = [name for name in names if images[str(name)] >= 2]
    apart = "images" if len(several) >= 2 else "cells"
    names = np.array((several if apart == "images" else list(names))[:MOST_SLIDES])
    if len(names) < 2:
        return None
    chosen = []
    for name in names:
        own = np.flatnonzero(usable & (cells.slides == name))
        chosen.append(rng.permutation(own)[:PER_SLIDE])
    picked = cells.take(np.concatenate(chosen))
    slides = np.unique(picked.slides, return_inverse=True)[1]
    folds = min(FOLDS, *(images[str(name)] for name in names)) if apart == "images" else FOLDS
    splitter = StratifiedGroupKFold if apart == "images" else StratifiedKFold
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    told = cross_val_predict(
        classifier,
        picked.vectors.astype(np.float64),
        slides,
        groups=picked.images if apart == "images" else None,
        cv=splitter(folds, shuffle=True, random_state=seed),
    )
    accuracy = float(recall_score(slides, told, average="macro"))
    return SlideProbe(accuracy, 1 / len(names), len(names), len(picked), apart)


def known(cells: HeldOutCells) -> bool:
    """Whether the type of any cell is known."""
    return bool((cells.types != UNKNOWN).any())
