"""Do fast paths find the same cells? Validation F1 and the cells themselves, against float32 without any shortcut.

CELLDETR_DATA=... python benchmarks/same_result.py | tee benchmarks/results/same_result.txt

All at the model's own threshold, on which it depends which queries run. A cell of the reference is compared with the
nearest cell of the other path, if that is within 3 px.
"""

from __future__ import annotations

import copy

import numpy as np
from scipy.spatial import cKDTree

from celldetr.config import DataSource
from celldetr.data.sources import load_source
from celldetr.evaluation.score import score_images
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.model.layers import DeformableAttention
from celldetr.training.validation import PROTOCOL, predict_images

NEAR_PX = 3.0


def main() -> None:
    checkpoint = load_checkpoint(find_model("small-20x"))
    network, types, threshold = checkpoint.network, checkpoint.card.config.types, checkpoint.card.threshold
    samples = load_source(DataSource(card="brca-m2c", split="val"), types, network.config.mpp)
    plain = TilePredictor(copy.deepcopy(network), threshold=threshold, precision="32")
    plain.network = copy.deepcopy(network).eval()
    for module in plain.network.modules():
        if isinstance(module, DeformableAttention):
            module.fused = False
    paths = {"reference": plain} | {
        name: TilePredictor(network, threshold=threshold, precision=precision)
        for name, precision in (("float32", "32"), ("bfloat16", "bf16"))
    }
    print(
        "path       detection  types  | cosine of embeddings: mean, 1st percentile | centre, px: median, 99th percent."
    )
    wanted = [plain.predict_tiles([sample.image])[0] for sample in samples]
    for name, predictor in paths.items():
        images, _ = predict_images(predictor, samples)
        totals = score_images(images, types, PROTOCOL, threshold=threshold, resamples=0).totals
        cosines, gaps = [], []
        for sample, there in zip(samples, wanted, strict=True):
            here = predictor.predict_tiles([sample.image])[0]
            centres, others = ((c.boxes[:, :2] + c.boxes[:, 2:]) / 2 for c in (there, here))
            gap, nearest = cKDTree(others).query(centres)
            a = there.embeddings.astype(np.float64)[gap < NEAR_PX]
            b = here.embeddings.astype(np.float64)[nearest[gap < NEAR_PX]]
            cosines.append((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
            gaps.append(gap)
        cosine, gap = np.concatenate(cosines), np.concatenate(gaps)
        print(
            f"{name:10} {totals.detection.f1:9.4f}  {totals.mean_f1:.4f} |"
            f" {cosine.mean():.5f}, {np.percentile(cosine, 1):.5f} |"
            f" {np.median(gap):.3f}, {np.percentile(gap, 99):.3f}"
        )


if __name__ == "__main__":
    main()
