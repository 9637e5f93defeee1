"""How low may a token's score be for it to become a query? What is found, and what is spared, against that score.

CELLDETR_DATA=... python benchmarks/query_scores.py | tee benchmarks/results/query_scores.txt

Cells are those above the model's threshold when all queries run. A cell is lost when the token that became its query
scored less than the share of the threshold in the first column.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from celldetr.config import DataSource
from celldetr.data.sources import load_source
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import QUERY_SHARE
from tile_speed import tissue

SHARES = (0.25, 0.4, 0.5, 0.6, 0.75, 1.0)


def main() -> None:
    checkpoint = load_checkpoint(find_model("small-20x"))
    network, threshold = checkpoint.network.eval(), checkpoint.card.threshold
    types, mpp = network.config.types, network.config.mpp

    def scores(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(Q,) what each query's token scored, best first, and whether it found a cell."""
        height, width = (side - side % network.config.strides[-1] for side in image.shape[:2])
        pixels = torch.from_numpy(image[:height, :width].transpose(2, 0, 1).copy())[None]
        with torch.inference_mode():
            found = network.detect(network.memorise(pixels))
        assert found.proposals is not None
        queries = found.last.logits.shape[1]
        first = found.proposals.logits.sigmoid()[0].topk(queries).values
        return first.numpy(), (found.last.logits.sigmoid()[0] >= threshold).numpy()

    def labelled(card: str, split: str, count: int) -> list[NDArray[np.uint8]]:
        source = DataSource(card=card, split=split, types={})
        return [sample.image for sample in load_source(source, types, mpp)[:count]]

    sets = {
        "brca-m2c val": labelled("brca-m2c", "val", 10),
        "consep train, 6 images": labelled("consep", "train", 6),
        "sample slide": list(tissue(3, 768)),
    }
    print(f"threshold {threshold:.3f}; predictions use queries from {QUERY_SHARE:g} of it on")
    print("share of the threshold: queries kept, cells lost")
    for name, images in sets.items():
        first, found = (np.concatenate(parts) for parts in zip(*map(scores, images), strict=True))
        print(f"{name}: {len(first)} queries, {found.sum()} cells")
        for share in SHARES:
            kept = first >= share * threshold
            print(f"  {share:4.2f}: {kept.mean():6.1%} {found[~kept].sum() / found.sum():8.2%}")


if __name__ == "__main__":
    main()
