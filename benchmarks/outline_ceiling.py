"""The best that 32 radii can do: the truth drawn as outlines from its own boxes, scored against the truth's pixels.

Beside it the ellipses in the true boxes, by which models without outlines are scored, and how many nuclei are doubtful:
of a solidity below .9 (``least_solidity`` of cards).

    CELLDETR_DATA=<folder of the data sets> python benchmarks/outline_ceiling.py

Log: benchmarks/results/outline_ceiling.txt.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from celldetr import measure
from celldetr.data.card import load_card
from celldetr.data.sources import load_samples
from celldetr.evaluation.mask_overlap import MaskOverlap, ceiling_overlap, predicted_overlap
from celldetr.evaluation.panoptic import MaskTotals, count_masks

SETS = [
    ("consep", ("train", "test")),
    ("monuseg-train", ("all",)),
    ("nuinsseg", ("train", "val", "test")),
    ("tnbc", ("train", "val", "test")),
]


@dataclass
class Scores:
    """Sums over images of one way of drawing."""

    totals: MaskTotals = field(default_factory=lambda: MaskTotals.none(1))
    iou: list[np.ndarray] = field(default_factory=list)

    def add(self, overlap: MaskOverlap) -> None:
        kinds, nuclei = np.zeros(len(overlap.true_areas), int), np.flatnonzero(overlap.true_areas)
        self.totals += count_masks(overlap, kinds, kinds, 1)
        self.iou.append(overlap.iou_of(nuclei, nuclei))

    def line(self, name: str) -> str:
        iou, means = np.concatenate(self.iou), self.totals.image_means()
        numbers = "  ".join(f"{means[key].value:5.3f}" for key in ("dq", "sq", "bpq", "aji", "dice"))
        return f"{name:<33} {len(iou):>6}  {numbers}  {np.median(iou):10.3f}  {np.mean(iou < 0.8):9.4f}"


def main() -> None:
    print(f"{'':<33} nuclei     DQ     SQ    bPQ    AJI   Dice  median IoU  IoU < .8")
    for name, splits in SETS:
        drawn, ellipses, solid = Scores(), Scores(), []
        for split in splits:
            for sample in load_samples(load_card(name), split, shapes="masks"):
                if sample.masks is None or not len(sample):
                    continue
                true, boxes = sample.masks.map(sample.image.shape), sample.boxes.astype(np.float64)
                drawn.add(ceiling_overlap(sample.masks, boxes, true))
                ellipses.add(predicted_overlap(boxes, None, -np.prod(boxes[:, 2:] - boxes[:, :2], 1), true, len(boxes)))
                points = sample.masks.outlines(boxes).astype(np.float64)
                solid.append(measure.shapes(points)[:, measure.SHAPES.index("solidity")])
        print(drawn.line(f"{name}, 32 radii"))
        print(ellipses.line(f"{name}, ellipses in boxes"))
        solidity = np.concatenate(solid)
        shares = "  ".join(f"< {least}: {np.mean(solidity < least):.3f}" for least in (0.85, 0.9, 0.93))
        print(f"{'':<4}{'share of solidity':<29} {shares}", flush=True)


if __name__ == "__main__":
    main()
