"""How large nuclei come out when the resolution is right, and when it is said to be half or twice what it is.

CELLDETR_DATA=... python benchmarks/nucleus_size.py | tee benchmarks/results/nucleus_size.txt

Each set of images is taken for a slide, and each of its images with enough cells for one too. A warning at the right
resolution is a false alarm; none at half or twice of it is a miss. 0.7 and 1.4 are there to see where it begins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from celldetr.api import load_model
from celldetr.data.card import load_card
from celldetr.data.sources import load_samples
from celldetr.demo_slide import sample_slide
from celldetr.slide.nucleus_size import CONFIDENT, ENOUGH, LEAST, MOST
from celldetr.slide.reader import open_slide

FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0)  # stated over true micrometres per pixel
SETS = (
    ("brca-m2c", "val", 1),
    ("consep", "train", 3),  # every third image
    ("nucls-examples", "train", 1),
    ("pannuke-breast-mini", "all", 1),
)
PLACES, SIDE = ((500, 600), (1200, 900), (300, 1800)), 700  # corners of squares of the sample slide, their side in px
Image = tuple[NDArray[np.uint8], float, NDArray[np.float32]]  # pixels, true mpp, xyxy boxes


def sets() -> dict[str, list[Image]]:
    found: dict[str, list[Image]] = {}
    for card, split, step in SETS:
        samples = load_samples(load_card(card), split)[::step]
        found[f"{card} {split}"] = [(sample.image, sample.mpp, sample.boxes) for sample in samples]
    with open_slide(sample_slide()) as slide:
        none = np.zeros((0, 4), np.float32)
        found["sample slide"] = [(slide.read_level(0, x, y, SIDE, SIDE), slide.mpp, none) for x, y in PLACES]
    return found


def median(sizes: NDArray[np.float64]) -> str:
    return f"{np.median(sizes):5.2f}" if len(sizes) else "    -"


def main() -> None:
    model = load_model("small-20x")
    bounds = f"plausible: {LEAST:g} to {MOST:g}"
    print(f"sqrt(w h) of cells scoring {CONFIDENT:g} or more, um by the stated resolution; {bounds}")
    print(
        "set                      stated/true  cells  median  warning  images with a warning  their medians  labelled"
    )
    for name, images in sets().items():
        sides = [(boxes[:, 2:] - boxes[:, :2]).prod(1) ** 0.5 * mpp for _, mpp, boxes in images]
        for factor in FACTORS:
            each = []
            for pixels, mpp, _ in images:
                cells = model.predict(pixels, mpp * factor)
                size = np.sqrt(cells["w_px"] * cells["h_px"].astype(np.float64)) * mpp * factor
                each.append(size[cells["score"] >= CONFIDENT].to_numpy())
            medians = np.array([np.median(size) for size in each if len(size) >= ENOUGH])
            wrong = (medians < LEAST) | (medians > MOST)
            pooled = np.concatenate(each)
            warned = len(pooled) >= ENOUGH and not LEAST <= np.median(pooled) <= MOST
            span = f"{medians.min():5.2f}-{medians.max():5.2f}" if len(medians) else "          -"
            print(
                f"{name:24s} {factor:11g} {len(pooled):6d}   {median(pooled)}  {'yes' if warned else 'no':7s}"
                f"  {f'{wrong.sum()} of {len(medians)}':21s}  {span:13s}  {median(np.concatenate(sides)):8s}",
                flush=True,
            )


if __name__ == "__main__":
    main()
