"""What averaging over orientations finds on validation images, at the shipped threshold and at the best one.

CELLDETR_DATA=... python benchmarks/orientations.py | tee benchmarks/results/orientations.txt

The best threshold is what ``celldetr train`` would choose for these scores on these images. Nothing is scored on test.
"""

from __future__ import annotations

import argparse

from celldetr.config import DataSource
from celldetr.data.sources import load_source
from celldetr.evaluation.image_cells import LOWEST_SCORE, image_cells
from celldetr.evaluation.threshold import THRESHOLD_PROTOCOLS, best_threshold
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.model.orientations import COUNTS
from scores import scores_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="small-20x")
    checkpoint = load_checkpoint(find_model(parser.parse_args().model))
    network, shipped = checkpoint.network, checkpoint.card.threshold
    types = network.config.types
    samples = load_source(DataSource(card="brca-m2c", split="val"), types, network.config.mpp)
    print(f"brca-m2c val, {len(samples)} images, pairs within 3 um")
    print("orientations  threshold          F1     standard  precision  recall  types  types(standard)  box IoU")
    for count in COUNTS:
        predictor = TilePredictor(network, threshold=shipped, orientations=count)
        images = [  # down to a low score, for the choice of a threshold
            image_cells(sample, predictor.predict_tiles([sample.image], LOWEST_SCORE)[0], types) for sample in samples
        ]
        best = best_threshold(images, THRESHOLD_PROTOCOLS).threshold
        for name, threshold in (("shipped", shipped), ("best", best)):
            got = scores_at(threshold, images, types)
            print(
                f"{count:12d}  {threshold:.3f} {name:8s}  {got.f1:.4f}  {got.f1_standard:.4f}  {got.precision:9.3f}"
                f"  {got.recall:6.3f}  {got.types:.4f}  {got.types_standard:15.4f}  {got.iou:7.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
