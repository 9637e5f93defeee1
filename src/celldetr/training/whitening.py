"""Whitened start of pretraining: queries begin with principal components of the features in their box.

With ``content: features`` the content of a query is a linear map of the features of all levels inside a box, 512
numbers to 128 in ``small-20x``. A random map loses much of them. Principal components lose little, and with one
variance each, the few that distinguish slides do not drown the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from celldetr.data.sample import Sample
from celldetr.model.at_boxes import embed_in_pieces, look_into
from celldetr.model.celldetr import CellDETR
from celldetr.model.inference import TilePredictor
from celldetr.training.data import spread

IMAGES = 100  # training images that are used, spread evenly over all
CELLS = 1000  # of an image
FLOOR = 0.01  # least variance that a component is given, of standardised features
NOTHING = 1e-6  # variance, of the largest, below which a component is rounding: few cells do not have all of them


@torch.no_grad()
def whiten(network: CellDETR, samples: Sequence[Sample], device: torch.device) -> None:
    """Replace the map from features to content by whitened principal components.

    Args:
        network: with ``content: features``.
        samples: images at the network's mpp, one of them with a box.
        device: of the network.
    """
    read = network.representer.look if network.representer is not None else None
    if read is None:
        raise ValueError("the content of this network's queries is made from their size, not from features")
    training = network.training
    predictor = TilePredictor(network.eval(), threshold=0.5, device=device, precision="32")
    look = look_into(predictor, lambda memories, boxes: read.features(boxes, memories.representation))
    parts = [
        embed_in_pieces(look, read.project.in_features, sample.image, sample.boxes[spread(len(sample), CELLS)])
        for sample in images_with_cells(samples)
    ]
    network.train(training)
    weight, bias = whitening(np.concatenate(parts), len(read.project.bias))
    # Turned at random, as the weights are that it replaces: runs of other seeds begin elsewhere.
    turn = torch.linalg.qr(read.project.weight[:, : len(weight)].cpu().double())[0]
    read.project.weight.copy_((turn @ weight).float())
    read.project.bias.copy_((turn @ bias).float())


def images_with_cells(samples: Sequence[Sample]) -> list[Sample]:
    """``IMAGES`` spread evenly, those without a cell left out; if that is all of them, the first that has one."""
    chosen = [sample for sample in (samples[place] for place in spread(len(samples), IMAGES)) if len(sample)]
    return chosen or [next(sample for sample in samples if len(sample))]


def whitening(vectors: NDArray[np.floating], dim: int) -> tuple[Tensor, Tensor]:
    """Weights of the linear map from vectors (N, d) to ``dim`` whitened components of their standardised coordinates.

    Returns:
        (dim, d) and (dim,) float64: vectors @ weight.T + bias has mean 0 and, where a component has a variance of at
        least ``FLOOR``, the identity as its covariance. Components beyond the rank of the vectors are 0.
    """
    x = vectors.astype(np.float64)
    mean, sd = x.mean(0), x.std(0)
    scale = np.divide(1, sd, out=np.zeros_like(sd), where=sd > 1e-6)
    x = (x - mean) * scale
    variances, directions = np.linalg.eigh(x.T @ x / len(x))
    variances, directions = variances[::-1][:dim], directions[:, ::-1][:, :dim]
    stretch = np.where(variances > NOTHING * variances[0], 1 / np.sqrt(np.maximum(variances, FLOOR)), 0)
    weight = (directions * stretch).T * scale
    return torch.from_numpy(weight), torch.from_numpy(-weight @ mean)
