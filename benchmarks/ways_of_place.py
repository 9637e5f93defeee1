"""The ways by which a cell's place enters its embedding, closed one by one in trained weights, without training.

For each change the R2 of x, y and the distance to the border, read from the embeddings by a ridge regression on images
that it was not fitted on (``celldetr.probe.location``). What the network's settings do not offer by themselves (a
reflected rim, a change of attention alone or of convolutions alone) is done to the built network here.

    CELLDETR_DATA=<folder of the data sets> python benchmarks/ways_of_place.py [--model small-20x] [--images 27]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from celldetr.boxes import normalise_boxes
from celldetr.data.card import load_card
from celldetr.data.sample import Sample
from celldetr.data.sources import load_samples, rescale
from celldetr.model.borders import replicate_borders
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.layers import DeformableAttention
from celldetr.probe.location import TARGETS, TILE_PX, PlacedCells, place_in_tile, readout, tile_corners

PLACELESS = {"query_position": "none", "encoder_position": "none"}
Changes = dict[str, str]


def clamp_points(network: CellDETR) -> None:
    """Attention alone: points beyond a level read its nearest token."""
    for module in network.modules():
        if isinstance(module, DeformableAttention):
            module.inside = True


def repeat_edges(network: CellDETR) -> None:
    """Convolutions alone: beyond the image they read its nearest pixel."""
    replicate_borders(network.backbone.body)


WAYS: tuple[tuple[str, Changes, Callable[[CellDETR], None] | None, int], ...] = (
    ("nothing changed", {}, None, 0),
    ("query position none", {"query_position": "none"}, None, 0),
    ("query position none, edges repeated in convolutions", {"query_position": "none"}, repeat_edges, 0),
    ("query position none, 64 px of reflected image", {"query_position": "none"}, None, 64),
    ("no positions, 96 px of reflected image", PLACELESS, None, 96),
    ("points clamped into the map", {}, clamp_points, 0),
    ("no positions", PLACELESS, None, 0),
    ("border replicate", {"border": "replicate"}, None, 0),
    ("border replicate, query position none", {"border": "replicate", "query_position": "none"}, None, 0),
    ("border replicate, encoder position none", {"border": "replicate", "encoder_position": "none"}, None, 0),
    ("border replicate, no positions", {"border": "replicate", **PLACELESS}, None, 0),
)


def variant(source: CellDETR, changes: Changes, change: Callable[[CellDETR], None] | None) -> CellDETR:
    """The network with other settings and the same weights, as far as it has them."""
    made = CellDETR(source.config.model_copy(update=changes))
    made.load_state_dict(source.state_dict(), strict=False)
    if change is not None:
        change(made)
    return made.eval()


@torch.inference_mode()
def embed_all(network: CellDETR, samples: Sequence[Sample], rim: int) -> PlacedCells:
    """Cells of all tiles; ``rim`` pixels of the tile's own reflection around each."""
    parts: list[tuple[NDArray, ...]] = []
    for number, sample in enumerate(samples):
        centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        for corner in tile_corners(sample):
            own = ((centres >= corner) & (centres < corner + TILE_PX)).all(1)
            if not own.any():
                continue
            x, y = corner
            tile = torch.from_numpy(sample.image[y : y + TILE_PX, x : x + TILE_PX].transpose(2, 0, 1).copy())[None]
            tile = functional.pad(tile.float(), (rim,) * 4, mode="reflect").to(torch.uint8) if rim else tile
            boxes = torch.from_numpy(np.clip(sample.boxes[own] - np.tile(corner, 2), 0, TILE_PX) + rim).float()
            where = normalise_boxes(boxes, tile.shape[3], tile.shape[2])[None]
            vectors = network.represent(network.memorise(tile), where).embeddings[0].float().numpy()
            index = np.full(len(vectors), number)
            parts.append((vectors, index, place_in_tile(centres[own] - corner), index, index))
    return PlacedCells(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small-20x")
    parser.add_argument("--dataset", default="consep")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, help="so many of them; default: all")
    parser.add_argument("--ways", type=int, default=len(WAYS), help="only the first of the list")
    options = parser.parse_args()
    source = load_checkpoint(find_model(options.model)).network
    samples = load_samples(load_card(options.dataset), options.split, limit=options.images)
    samples = [rescale(sample, source.config.mpp) for sample in samples]
    print(f"{options.model}, {options.dataset} {options.split}, {len(samples)} images; R2 of {', '.join(TARGETS)}")
    for name, changes, change, rim in WAYS[: options.ways]:
        cells = embed_all(variant(source, changes, change), samples, rim)
        r2 = readout(cells)["ridge"]
        print(f"{name:55s} {len(cells.cells):6d} cells  " + "  ".join(f"{r2[t]:6.3f}" for t in TARGETS), flush=True)


if __name__ == "__main__":
    main()
