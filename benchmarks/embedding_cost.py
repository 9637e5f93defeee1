"""What it costs to embed a nucleus: our decoder, with and without the work that finding nuclei does anyway, and crops.

    CELLDETR_DATA=<folder of the data sets> python benchmarks/embedding_cost.py -o embedding_cost.txt

Processor time on one thread in float32, divided by the labelled cells of validation images, the least of ``ROUNDS``.
Methods take turns, so that other work on the machine falls on all alike. *From pixels* is everything from an image with
boxes to vectors; *beside detection* is what embeddings add where the same network finds the nuclei: the level of stride
4 and the representation decoder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from celldetr.api import load_model
from celldetr.boxes import normalise_boxes
from celldetr.data.card import load_card
from celldetr.data.sample import Sample
from celldetr.data.sources import load_samples, rescale
from celldetr.model.at_boxes import embed_boxes
from celldetr.model.inference import TilePredictor, padded
from celldetr.probe.crops import CropEmbedder
from celldetr.probe.handmade import handmade_features
from celldetr.probe.pooled import PooledEmbedder

CPU = torch.device("cpu")
ROUNDS = 3
IMAGES = 3  # of each set
SIZES = (64, 128, 224)
SETS = (("consep-train", "val"), ("brca-m2c", "val"))


@torch.inference_mode()
def beside_detection(predictor: TilePredictor, sample: Sample) -> float:
    """Seconds of what detection alone would not need."""
    network, height, width = predictor.network, *sample.image.shape[:2]
    tensor = torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1)))[None]
    images, sizes = padded(tensor, network.config.strides[-1])
    levels = network.levels(network.normalise(images))
    memories = network.encode_levels(levels, sizes, None)
    boxes = normalise_boxes(torch.from_numpy(sample.boxes).float(), width, height)[None]
    start = time.process_time()
    network.represent(network.complete(memories.detection, levels), boxes)
    return time.process_time() - start


def timed(work: Callable[[Sample], object]) -> Callable[[Sample], float]:
    def measure(sample: Sample) -> float:
        start = time.process_time()
        work(sample)
        return time.process_time() - start

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, help="log to write")
    args = parser.parse_args()
    predictor = load_model("small-20x", "cpu", precision="32")
    config, made = predictor.network.config, {}
    made["CellDETR, beside detection"] = lambda s: beside_detection(predictor, s)
    made["CellDETR, from pixels"] = timed(lambda s: embed_boxes(predictor, s.image, s.boxes))
    made["backbone averaged over boxes, from pixels"] = timed(PooledEmbedder(config, CPU))
    for size in SIZES:
        made[f"crops through the backbone at {size} px"] = timed(CropEmbedder(size, CPU))
    made["hand-made features"] = timed(handmade_features)
    lines = []
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for name, split in SETS:
            samples = [rescale(s, config.mpp) for s in load_samples(load_card(name), split)]
            samples = [s for s in samples if len(s)][:IMAGES]
            cells = sum(len(s) for s in samples)
            area = sum(s.image.shape[0] * s.image.shape[1] for s in samples) * config.mpp**2 / 1e6
            for measure in made.values():
                measure(samples[0])  # kernels are compiled, caches filled
            rounds = [{k: sum(map(measure, samples)) for k, measure in made.items()} for _ in range(ROUNDS)]
            best = {k: 1000 * min(r[k] for r in rounds) / cells for k in made}
            lines.append(f"{name}, {split}: {len(samples)} images, {cells:,} cells, {cells / area:,.0f} a mm2")
            beside, whole = best["CellDETR, beside detection"], best["CellDETR, from pixels"]
            lines += [
                f"  {k:42} {ms:7.3f} ms a cell; ours {beside / ms:.3f} of it beside detection, {whole / ms:.3f} whole"
                for k, ms in best.items()
            ]
            print("\n".join(lines[-len(best) - 1 :]), flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
