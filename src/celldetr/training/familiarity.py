"""Familiarity with the training data: a network's embeddings of their nuclei, summed up into its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from celldetr.config import Recipe
from celldetr.data.sample import Sample, join
from celldetr.data.sources import load_source
from celldetr.data.tiling import pieces
from celldetr.errors import InputError
from celldetr.evaluation.pairing import pair_cells
from celldetr.evaluation.protocols import find_protocol
from celldetr.model.checkpoint import load_checkpoint, save_familiarity
from celldetr.model.familiarity import FEWEST, FOLDS, Familiarity
from celldetr.model.inference import TilePredictor
from celldetr.progress import Progress
from celldetr.training.data import validation_px
from celldetr.training.validation import PROTOCOL

MOST_IMAGES = 240


def training_images(recipe: Recipe) -> tuple[Sequence[Sample], list[float]]:
    """The training images of a recipe at its resolution, and how often each is drawn.

    Raises:
        InputError: the data are missing or wrong.
    """
    sources = [load_source(source, recipe.model.types, recipe.model.mpp) for source in recipe.train]
    weights = [spec.weight for spec, source in zip(recipe.train, sources, strict=True) for _ in range(len(source))]
    return join(sources), weights


def measure(
    predictor: TilePredictor,
    samples: Sequence[Sample],
    weights: Sequence[float],
    side: int | None = None,
    progress: Progress | None = None,
) -> Familiarity | None:
    """Sum up the embeddings of labelled nuclei that a network finds in images of its training.

    Args:
        predictor: the network, at the threshold of its users.
        samples, weights: images at its resolution, and how often each is drawn; at most ``MOST_IMAGES`` are looked at.
        side: cut them into squares of so many px; None: whole (as ``validation.predict_images``).
        progress: called with how many images are done, of how many.

    Returns:
        None if there are too few nuclei.
    """
    rng, rules = np.random.default_rng(0), find_protocol(PROTOCOL)
    labelled = [i for i in range(len(samples)) if weights[i] > 0]
    shares = np.array([weights[i] for i in labelled], float)
    chosen = rng.choice(labelled, min(MOST_IMAGES, len(labelled)), replace=False, p=shares / shares.sum())
    embeddings, groups, names = [], [], dict[str, int]()
    for done, index in enumerate(chosen.tolist(), 1):
        sample = samples[index]
        for piece in [sample] if side is None else pieces(sample, side):
            cells = predictor.predict_tiles([piece.image])[0]
            centres = (cells.boxes[:, :2] + cells.boxes[:, 2:]) / 2
            found, _ = pair_cells(centres, piece.points, rules.radius_px(piece.mpp), rule=rules.pairing)
            embeddings.append(cells.embeddings[found])
            groups.append(np.full(len(found), names.setdefault(sample.group or sample.name, len(names))))
        if progress:
            progress(done, len(chosen))
    return Familiarity.of_training(np.concatenate(embeddings), np.concatenate(groups)) if embeddings else None


def add_familiarity(
    folder: Path,
    samples: Sequence[Sample],
    weights: Sequence[float],
    recipe: Recipe,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> bool:
    """``measure`` the network of a checkpoint, and put the result there.

    Args:
        folder: of the checkpoint.
        samples, weights, progress: as of ``measure``.
        recipe: of its training.
        device: where the network runs.

    Returns:
        whether there were enough nuclei.
    """
    checkpoint = load_checkpoint(folder, device=device)
    predictor = TilePredictor(checkpoint.network, threshold=checkpoint.card.threshold, device=device)
    found = measure(predictor, samples, weights, validation_px(recipe), progress)
    if found is not None:
        save_familiarity(folder, found)
    return found is not None


def too_few(folder: Path) -> InputError:
    """The error of a command that can do nothing with so little."""
    return InputError(
        f"{folder}: familiarity needs {FEWEST} labelled nuclei that the model finds, in {FOLDS} images or patients"
    )
