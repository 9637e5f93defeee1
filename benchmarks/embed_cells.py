"""Cost of embedding given cells, as a share of finding them: the same image, the same tiles, one process.

    python benchmarks/embed_cells.py [--side 900] [--rounds 3]
    python benchmarks/big_slide.py --side 4000 --model '' -o runs/big.tif
    python benchmarks/embed_cells.py --slide runs/big.tif --rounds 1 | tee benchmarks/results/embed_cells.txt

A square of the sample slide is predicted, and the boxes found are embedded; then their centres only, whose boxes come
from the image. With --slide that is done with files, from the slide to cells.parquet: the boxes are those of the table,
the centres a CSV. Rounds alternate, and CPU time is compared, so that other load on the machine hardly matters.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import celldetr
from celldetr.given.run import embed_slide
from celldetr.slide.reader import open_slide

PLACE = (600, 600)  # corner of the square, level-0 px
WARM = 256  # px, side of what is done before anything is measured


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@dataclass(frozen=True)
class Measured:
    """Cells that were found and embedded again by their boxes; (rounds, 3) seconds to find, of boxes, of centres."""

    what: str
    found: pd.DataFrame
    given: pd.DataFrame
    seconds: NDArray[np.float64]


def in_memory(model: celldetr.Model, side: int, rounds: int) -> Measured:
    """Of a square."""
    with open_slide(celldetr.sample_slide()) as reader:
        image, mpp = reader.read_region(*PLACE, side, side, side, side), reader.mpp
    cells = model.predict(image, mpp)
    x, y, w, h = (cells[name].to_numpy(np.float64) for name in ("x_px", "y_px", "w_px", "h_px"))
    boxes, points = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1), np.stack([x, y], 1)
    given = model.embed(image, boxes, mpp)
    model.embed(image, points, mpp)
    work = [partial(model.predict, image, mpp), *(partial(model.embed, image, each, mpp) for each in (boxes, points))]
    times = np.array([[seconds(each) for each in work] for _ in range(rounds)])
    return Measured(f"{side} x {side} px at {mpp:.3g} um", cells, given, times)


def on_slide(model: celldetr.Model, slide: Path, rounds: int, folder: Path) -> Measured:
    """Of a whole slide, from file to file."""
    centres, names, times = folder / "centres.csv", ("found", "boxes", "centres"), []
    found, boxed, pointed = (folder / name / slide.stem for name in names)
    for _ in range(rounds):
        own = partial(embed_slide, slide, model=model, overwrite=True)
        predicted = seconds(lambda: celldetr.predict_slide(slide, found.parent, model=model, overwrite=True))
        celldetr.read_cells(found)[["cell_id", "x_px", "y_px"]].to_csv(centres, index=False)
        given = [seconds(partial(own, *each)) for each in ((found, boxed.parent), (centres, pointed.parent))]
        times.append([predicted, *given])
    return Measured(slide.name, celldetr.read_cells(found), celldetr.read_cells(boxed), np.array(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=900, help="of the square, px")
    parser.add_argument("--slide", type=Path, help="a whole slide instead of the square")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = celldetr.load_model(device="cpu")
    if options.slide is None:
        measured = in_memory(model, options.side, options.rounds)
    else:
        in_memory(model, WARM, 1)
        with tempfile.TemporaryDirectory() as folder:
            measured = on_slide(model, options.slide, options.rounds, Path(folder))
    cells, (found, boxed, pointed) = measured.found, measured.seconds.T
    a, b = (np.stack(each["embedding"].tolist()).astype(np.float32) for each in (cells, measured.given))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    print(
        f"{len(cells):,} cells on {measured.what}, rounds: {options.rounds}; predict: {np.median(found):.0f} s of CPU"
    )
    for name, ratio in (("boxes", boxed / found), ("centres", pointed / found)):
        print(f"embed {name} / predict: {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})")
    print(f"cosine to the embeddings of predict: least {cosine.min():.4f}, median {np.median(cosine):.4f}")


if __name__ == "__main__":
    main()
