"""HoVer-Net fast, TIAToolbox's hovernet_fast-pannuke, through its ``infer_batch`` and ``postproc``."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from drawn_nuclei import draw
from serving import Peer, Tile, serve

TYPES = 6  # with background
ANSWER = 164  # px: of a tile of 256 the middle


def build(options: argparse.Namespace, tiles: list[Tile]) -> Peer:
    from tiatoolbox.models.architecture.hovernet import HoVerNet

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = HoVerNet(num_types=TYPES, mode="fast").eval()
    rng = np.random.default_rng(0)
    prepared = []
    for tile in tiles:
        size = tile.image.shape[0]
        margin = (size - ANSWER) // 2
        nuclei = draw(tile.boxes, size)
        inside = slice(margin, margin + ANSWER), slice(margin, margin + ANSWER)
        labels = nuclei.labels[inside]
        probability = np.where(labels > 0, 0.95, 0.05) + rng.normal(0, 0.02, labels.shape)
        directions = nuclei.relative[inside] + rng.normal(0, 0.02, (ANSWER, ANSWER, 2))
        types = np.where(labels > 0, 1 + labels % (TYPES - 1), 0)
        prepared.append([maps.astype(np.float32) for maps in (probability[..., None], directions, types[..., None])])

    def network(images: np.ndarray) -> object:
        return HoVerNet.infer_batch(model, torch.from_numpy(images), device="cpu")

    def post(index: int) -> int:
        (found,) = model.postproc(prepared[index])
        return len(found["info_dict"]["box"])

    return Peer(network, post)


if __name__ == "__main__":
    serve(build)
