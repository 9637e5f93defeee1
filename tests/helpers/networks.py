"""Networks as small as they can be, with random weights, and the tiles they are run on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from celldetr.config import ModelConfig, Precision
from celldetr.model.celldetr import CellDETR
from celldetr.model.inference import TilePredictor
from celldetr.model.output import TileCells

THRESHOLD = 0.5


def predictor(threshold: float = THRESHOLD, precision: Precision = "32", **changes: object) -> TilePredictor:
    """A network with random weights that finds cells: about half of its queries are above 0.5."""
    torch.manual_seed(0)
    config = {
        "types": ["a", "b", "c"],
        "backbone": "test_efficientnet",
        "d_model": 64,
        "heads": 4,
        "points": 2,
        "ffn": 32,
        "encoder_layers": 1,
        "detection_layers": 1,
        "representation_layers": 2,
        "num_queries": 500,
    }
    network = CellDETR(ModelConfig.model_validate(config | changes))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "backbone" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        network.detector.heads[-1].objectness.bias.zero_()
    card = {"name": "toy", "sha256": "ab", "recipe": {}}
    return TilePredictor(network, threshold=threshold, card=card, batch_size=2, precision=precision)


def tile(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


TILES = [tile(64, 64, 0), tile(50, 70, 1), tile(64, 64, 2), tile(1, 5, 3), tile(64, 64, 4)]


def assert_same(a: TileCells, b: TileCells, tolerance: float = 2e-3) -> None:
    """The same cells, but for rounding that depends on how many tiles are computed together."""
    assert len(a) == len(b)
    order_a, order_b = (np.lexsort(np.round(c.boxes, 2).T) for c in (a, b))
    for name in ("boxes", "scores", "probabilities", "embeddings"):
        x, y = getattr(a, name)[order_a], getattr(b, name)[order_b]
        np.testing.assert_allclose(x.astype(np.float32), y.astype(np.float32), atol=tolerance, rtol=tolerance)
