"""Cost of embedding given cells, as a share of finding them: the same image, the same tiles, one process.

    python benchmarks/embed_cells.py [--side 900] [--rounds 3] > benchmarks/results/embed_cells.txt

A square of the sample slide is predicted, and the boxes found are embedded; then their centres only, whose boxes come
from the image. Rounds alternate, and CPU time is compared, so that other load on the machine hardly matters.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

import celldetr
from celldetr.slide.reader import open_slide

PLACE = (600, 600)  # corner of the square, level-0 px


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=900, help="of the square, px")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = celldetr.load_model(device="cpu")
    with open_slide(celldetr.sample_slide()) as reader:
        image, mpp = reader.read_region(*PLACE, options.side, options.side, options.side, options.side), reader.mpp
    cells = model.predict(image, mpp)
    x, y, w, h = (cells[name].to_numpy(np.float64) for name in ("x_px", "y_px", "w_px", "h_px"))
    boxes, points = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1), np.stack([x, y], 1)
    given = model.embed(image, boxes, mpp)
    model.embed(image, points, mpp)
    a, b = (np.stack(each["embedding"].tolist()).astype(np.float32) for each in (cells, given))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    rounds = [
        (
            seconds(lambda: model.predict(image, mpp)),
            seconds(lambda: model.embed(image, boxes, mpp)),
            seconds(lambda: model.embed(image, points, mpp)),
        )
        for _ in range(options.rounds)
    ]
    found, boxed, pointed = np.array(rounds).T
    print(
        f"{len(cells)} cells on {options.side} x {options.side} px at {mpp:.3g} um, {options.rounds} rounds, CPU time"
    )
    for name, ratio in (("boxes", boxed / found), ("centres", pointed / found)):
        print(f"embed {name} / predict: {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})")
    print(f"cosine to the embeddings of predict: least {cosine.min():.4f}, median {np.median(cosine):.4f}")


if __name__ == "__main__":
    main()
