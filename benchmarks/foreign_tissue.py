"""Detection against the threshold, on the tissue a model was trained for and on tissue it has never seen.

CELLDETR_DATA=... python benchmarks/foreign_tissue.py | tee benchmarks/results/foreign_tissue.txt

CoNSeP (colon, 40x) is not used in training. Its train split is looked at here, its test split is not.
"""

from __future__ import annotations

from celldetr.config import DataSource
from celldetr.data.sources import load_source
from celldetr.evaluation.image_cells import LOWEST_SCORE
from celldetr.evaluation.threshold import best_threshold
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.training.validation import PROTOCOL, predict_images
from scores import scores_at

COLON = {"inflammatory": "lymphocyte", "epithelial": "epithelial", "spindle": "stromal", "other": ""}
SOURCES = (DataSource(card="brca-m2c", split="val"), DataSource(card="consep", split="train", types=COLON))
THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4)


def main() -> None:
    network = load_checkpoint(find_model("small-20x")).network
    types, mpp = network.config.types, network.config.mpp
    predictor = TilePredictor(network, threshold=LOWEST_SCORE)
    print("pairs within 3 um; F1 under within-radius and under standard")
    for source in SOURCES:
        images, _ = predict_images(predictor, load_source(source, types, mpp))
        print(f"{source.card} {source.split}, {len(images)} images")
        print("threshold  F1    standard  precision  recall  types  box IoU")
        for threshold in sorted({*THRESHOLDS, best_threshold(images, PROTOCOL).threshold}):
            got = scores_at(threshold, images, types)
            print(
                f"{threshold:9.3f}  {got.f1:.3f}  {got.f1_standard:8.3f}  {got.precision:9.3f}  {got.recall:6.3f}"
                f"  {got.types:5.3f}  {got.iou:7.2f}"
            )


if __name__ == "__main__":
    main()
