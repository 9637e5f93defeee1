"""Which levels of the network know where their tile ends: features of the same cells in two tiles.

CELLDETR_DATA=<folder of the data sets> python benchmarks/reach_of_levels.py

Two tiles of 256 px overlap, the second 64 px further down and to the right. For cells 64 px and more from the edges of
both, the features at their centres are compared: root mean square distance over the spread of the features. Borders are
replicated, positions off, levels normalised token by token; weights are the shipped ones, not trained for this form.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from celldetr.data.card import load_card
from celldetr.data.sources import load_samples, rescale
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.probe.location import MARGIN_PX, TILE_PX, movement
from ways_of_place import PLACELESS, variant


@torch.inference_mode()
def feature_maps(network: CellDETR, image: NDArray[np.uint8]) -> dict[str, Tensor]:
    """Maps (1, C, h, w) of the backbone and of the encoder's memory, by name."""
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    maps = {f"backbone, stride {s}": level for s, level in network.levels(network.normalise(pixels)).items()}
    memory = network.memorise(pixels).detection
    levels = memory.tokens.split([h * w for h, w in memory.shapes], dim=1)
    for stride, (height, width), tokens in zip(memory.strides, memory.shapes, levels, strict=True):
        maps[f"encoder, stride {stride}"] = tokens.transpose(1, 2).reshape(1, -1, height, width)
    return maps


def read_at(maps: dict[str, Tensor], points: NDArray[np.floating]) -> dict[str, NDArray[np.float32]]:
    """(N, C) features at (N, 2) points in pixels of the tile, bilinear."""
    grid = torch.from_numpy(points / TILE_PX * 2 - 1).float()[None, None]
    sampled = {
        name: functional.grid_sample(values.float(), grid, padding_mode="border", align_corners=False)
        for name, values in maps.items()
    }
    return {name: values[0, :, 0].T.numpy() for name, values in sampled.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12, help="of CoNSeP's training tiles")
    limit = parser.parse_args().images
    changes = {"border": "replicate", "level_norm": "layer", **PLACELESS}
    network = variant(load_checkpoint(find_model("small-20x")).network, changes, None)
    pairs: dict[str, list[tuple[NDArray, NDArray]]] = defaultdict(list)
    for sample in load_samples(load_card("consep"), "train", limit=limit):
        sample = rescale(sample, network.config.mpp)
        centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        height, width = sample.image.shape[:2]
        step = TILE_PX + MARGIN_PX
        for y in range(0, height - step + 1, TILE_PX // 2):
            for x in range(0, width - step + 1, TILE_PX // 2):
                low, high = np.array([x, y]) + 2 * MARGIN_PX, np.array([x, y]) + TILE_PX - MARGIN_PX
                inside = centres[((centres >= low) & (centres < high)).all(1)]
                if not len(inside):
                    continue
                here, there = (
                    read_at(
                        feature_maps(network, sample.image[y + d : y + d + TILE_PX, x + d : x + d + TILE_PX]),
                        inside - [x + d, y + d],
                    )
                    for d in (0, MARGIN_PX)
                )
                for name in here:
                    pairs[name].append((here[name], there[name]))
    for name, parts in pairs.items():
        before, after = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        print(f"{name:20s} {len(before):5d} cells  moved {movement(before, after):.3f}", flush=True)


if __name__ == "__main__":
    main()
