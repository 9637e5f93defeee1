"""How near may two cells be? F1 on validation images when, of cells nearer than a distance, only the best stays.

CELLDETR_DATA=... python benchmarks/same_nucleus.py | tee benchmarks/results/same_nucleus.txt

Each distance has the threshold that suits it best, as ``celldetr train`` would choose it.
"""

from __future__ import annotations

import argparse

from celldetr.config import DataSource
from celldetr.data.sources import load_source
from celldetr.evaluation.image_cells import LOWEST_SCORE
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.training.validation import validate

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
        predictor = TilePredictor(network, threshold=LOWEST_SCORE, same_nucleus_um=distance)
        threshold, numbers = validate(predictor, samples)
        print(
            f"{distance:11.1f} {threshold:9.3f} {numbers['f1_detection']:24.3f}"
            f" {numbers['f1_detection_standard']:19.3f} {numbers['f1_type_mean']:20.3f}"
            f" {numbers['f1_type_mean_standard']:15.3f}"
        )


if __name__ == "__main__":
    main()
