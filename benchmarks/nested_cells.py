"""Cells in the boxes of others, and F1, when of two such cells only the better stays.

CELLDETR_DATA=... python benchmarks/nested_cells.py | tee benchmarks/results/nested_cells.txt

Of training and validation images, and of CoNSeP's training tiles; no test split is looked at. "nested" is the share of
cells that have at least 80 % of their box in another cell's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from celldetr.config import InferenceOptions
from celldetr.data.card import load_card
from celldetr.data.sample import Sample
from celldetr.evaluation.evaluate import labelled_images
from celldetr.evaluation.image_cells import LOWEST_SCORE, ImageCells, image_cells
from celldetr.evaluation.protocols import PROTOCOLS
from celldetr.evaluation.threshold import count_at
from celldetr.model.inference import TilePredictor
from celldetr.model.nms import nested_pairs
from celldetr.slide.array import array_cells

SHARES = (0.0, 0.7, 0.8, 0.9)  # 0: all stay
NESTED = 0.8
LOWER = 0.2  # a second threshold, for tissue that scores lower
SETS = (  # every so many images
    ("brca-m2c", "train", 4),
    ("brca-m2c", "val", 1),
    ("tnbc", "train", 2),
    ("nuinsseg", "train", 16),
    ("nuinsseg", "val", 2),
    ("consep-train", "fit", 2),
)


def predicted(model: TilePredictor, samples: Sequence[Sample]) -> list[ImageCells]:
    """Cells down to a low score."""
    found = []
    for sample in samples:
        cells = array_cells(sample.image, sample.mpp, model, least_score=LOWEST_SCORE)
        found.append(image_cells(sample, cells, model.types))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="small-20x")
    model = TilePredictor.load(InferenceOptions(model=parser.parse_args().model))
    print("set                 threshold  share  cells  nested  F1 standard  F1 within-radius")
    for card, split, step in SETS:
        dataset = load_card(card)
        untyped = dict.fromkeys(dataset.type_names, "")  # only places matter here
        samples = labelled_images(dataset, split, model.types, untyped)[::step]
        for share in SHARES:
            model.nested_share = share
            images = predicted(model, samples)
            for threshold in (model.threshold, LOWER):
                above = [image.above(threshold) for image in images]
                cells = sum(len(image.pred_scores) for image in above)
                nested = sum(len({*nested_pairs(image.pred_boxes, NESTED)[:, 1].tolist()}) for image in above)
                f1 = [count_at(above, PROTOCOLS[name], threshold).f1 or 0.0 for name in ("standard", "within-radius")]
                print(
                    f"{card + ' ' + split:18s} {threshold:10.3f} {share:6.1f} {cells:6d} {nested / max(cells, 1):7.4f}"
                    f" {f1[0]:12.4f} {f1[1]:17.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
