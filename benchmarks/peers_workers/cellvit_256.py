"""CellViT-256 of the package ``cellvit``: ViT-S with three U-Net decoders, and the NumPy post-processing it ships."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from drawn_nuclei import draw
from serving import Peer, Tile, serve

TYPES, TISSUES = 6, 19  # as trained on PanNuke, background included


def maps_of(tile: Tile, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """What ``apply_softmax_reorder`` leaves of an output: (1, S, S, channels)."""
    nuclei = draw(tile.boxes, tile.image.shape[0])
    foreground = np.where(nuclei.labels > 0, 0.95, 0.05)
    types = np.eye(TYPES)[np.where(nuclei.labels > 0, 1 + nuclei.labels % (TYPES - 1), 0)]
    maps = {
        "nuclei_binary_map": np.stack([1 - foreground, foreground], axis=-1),
        "nuclei_type_map": types,
        "hv_map": nuclei.relative + rng.normal(0, 0.02, nuclei.relative.shape),
    }
    return {name: torch.from_numpy(values).float()[None] for name, values in maps.items()}


def build(options: argparse.Namespace, tiles: list[Tile]) -> Peer:
    from cellvit.inference.postprocessing_numpy import DetectionCellPostProcessor
    from cellvit.models.cell_segmentation.cellvit_256 import CellViT256

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = CellViT256(None, num_nuclei_classes=TYPES, num_tissue_classes=TISSUES).eval()
    processor = DetectionCellPostProcessor(wsi=None, nr_types=TYPES)
    rng = np.random.default_rng(0)
    prepared = [maps_of(tile, rng) for tile in tiles]

    @torch.inference_mode()
    def network(images: np.ndarray) -> object:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        found = model((pixels - 0.5) / 0.5, retrieve_tokens=True)
        for name in ("nuclei_binary_map", "nuclei_type_map"):
            found[name] = found[name].softmax(dim=1)
        return found

    def post(index: int) -> int:
        _, cells = processor.post_process_batch(prepared[index])
        return len(cells[0])

    return Peer(network, post)


if __name__ == "__main__":
    serve(build)
