"""What outlines and measurements cost: their share of the CPU time of a tile, on one thread.

python benchmarks/outline_cost.py | tee benchmarks/results/outline_cost.txt

Tiles are of tissue of the sample slide, the network is the default one with an outline head of random weights, which
costs what a trained one does. Each part is clocked inside the tile that it belongs to, so that what else runs on the
machine hits both; the ratio is the median over rounds. Rows are what the table's writer makes of the cells, and the
share of outlines in it is what it takes longer than for the same cells as boxes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from celldetr.cells.rows import cell_rows
from celldetr.model import inference
from celldetr.model.checkpoint import load_checkpoint
from celldetr.model.hub import find_model
from celldetr.model.inference import TilePredictor
from celldetr.model.outline import OutlineHead
from celldetr.model.output import TileCells
from tile_speed import tissue

PARTS = ("outlines", "stains", "rows of outlines")


class Clock:
    """Adds up the CPU seconds of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, clocked."""

        def clocked(*args: Any) -> Any:
            start = time.process_time()
            try:
                return work(*args)
            finally:
                self.seconds += time.process_time() - start

        return clocked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(find_model("small-20x"))
    checkpoint.network.outliner = OutlineHead(checkpoint.network.config.d_model)
    model = TilePredictor(checkpoint.network, threshold=checkpoint.card.threshold, precision=options.precision)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, precision {options.precision}")
    print("milliseconds a 256 x 256 px tile: all, then parts; then how much the parts add to the rest")
    for size, count in ((256, 4), (768, 1)):
        images = tissue(count, size)
        rows = []
        for number in range(options.rounds + 2):
            outlines, stains, whole, with_outlines, without = (Clock() for _ in range(5))
            with (
                patch.object(model, "_outline", outlines.around(model._outline)),
                patch.object(inference, "stains", stains.around(inference.stains)),
            ):
                cells = TileCells.join(whole.around(model.predict_tiles)(images))
            plain = TileCells(cells.boxes, cells.scores, cells.probabilities, cells.embeddings)
            with_outlines.around(cell_rows)(cells, model.types, (0.5, 0.5))
            without.around(cell_rows)(plain, model.types, (0.5, 0.5))
            parts = (outlines.seconds, stains.seconds, with_outlines.seconds - without.seconds)
            if number >= 2:
                rows.append((whole.seconds + with_outlines.seconds, *parts))
        area = count * (size / 256) ** 2
        times = np.array(rows) * 1e3 / area
        ratio = np.median(times[:, 1:].sum(1) / (times[:, 0] - times[:, 1:].sum(1)))
        told = ", ".join(f"{name} {value:.3f}" for name, value in zip(PARTS, np.median(times[:, 1:], 0), strict=True))
        print(
            f"{size} px, {len(cells) / area:.0f} cells: {np.median(times[:, 0]):.2f}; {told}; {ratio:.1%}", flush=True
        )


if __name__ == "__main__":
    main()
