"""How near may two cells be? F1 on validation images when, of cells nearer than a distance, only the best stays.

CELLDETR_DATA=... python benchmarks/same_nucleus.py | tee benchmarks/results/same_nucleus.txt

Each distance has the threshold that suits it best, as ``celldetr train`` would choose it.
"""

from __future__ import annotations

import argparse

import torch

from celldetr.config import DataSource
from celldetr.data.dataset import load_source
from celldetr.evaluation.cells import predict_samples
from celldetr.evaluation.evaluate import score_images
from celldetr.evaluation.threshold import best_threshold
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.training.loop import LOWEST_SCORE, PROTOCOL, whole_image

DISTANCES_UM = (0.0, 1.5, 2.0, 2.5, 3.0, 4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="small-20x")
    network = load_checkpoint(find_model(parser.parse_args().model)).network
    types, mpp = network.config.types, network.config.mpp
    samples = load_source(DataSource(card="brca-m2c", split="val"), types, mpp)
    print("brca-m2c val, pairs within 3 um")
    print("distance_um threshold detection(within-radius) detection(standard) types(within-radius) types(standard)")
    for distance in DISTANCES_UM:
        predictor = TilePredictor(network, threshold=LOWEST_SCORE, device=torch.device("cpu"), same_nucleus_um=distance)
        images = list(predict_samples(whole_image(predictor), samples, types))
        threshold = best_threshold(images, PROTOCOL).threshold
        near, standard = (
            score_images(images, types, name, threshold=threshold, resamples=0).totals
            for name in (PROTOCOL, "standard")
        )
        print(
            f"{distance:11.1f} {threshold:9.3f} {near.detection.f1:24.3f} {standard.detection.f1:19.3f}"
            f" {near.mean_f1:20.3f} {standard.mean_f1:15.3f}"
        )


if __name__ == "__main__":
    main()
