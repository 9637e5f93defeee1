"""CellDETR with the weights in the package, through ``TilePredictor``: from uint8 pixels to cells in one call."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from serving import Peer, Tile, serve

from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor


def build(options: argparse.Namespace, tiles: list[Tile]) -> Peer:
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(find_model("small-20x"))
    predictor = TilePredictor(
        checkpoint.network,
        threshold=checkpoint.card.threshold,
        precision=options.variant,
        batch_size=options.batch,
    )

    def network(images: np.ndarray) -> object:
        return predictor.predict_tiles(list(images))

    return Peer(network, None)


if __name__ == "__main__":
    serve(build, "auto", "32")
