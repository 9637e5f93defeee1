"""Do the checks of labels pass published sets, and notice their labels read wrongly?

For each set: the median size of its nuclei, and how dark its labels lie (deviations of the stain of their image), as
they are and in the best other way of reading them. Then labels are damaged in every way that is looked for.

    CELLDETR_DATA=<folder> python benchmarks/label_checks.py        # log: benchmarks/results/label_checks.txt
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from celldetr.data.card import load_card
from celldetr.data.label_checks import look_under
from celldetr.data.sources import load_samples
from celldetr.errors import InputError

SETS = {
    "brca-m2c": "val", "nucls-examples": "test", "dsb2018": "all", "nuinsseg": "all", "tnbc": "all",
    "monuseg-train": "all", "consep": "train", "pannuke-breast-mini": "all",
}  # fmt: skip
DAMAGES = {
    "exchanged": lambda p, size, mpp: p[:, ::-1],
    "micrometres": lambda p, size, mpp: p * mpp,
    "from below": lambda p, size, mpp: p * [1, -1] + [0, size[1]],
    "halved": lambda p, size, mpp: p / 2,
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=30, help="of each set")
    given = parser.parse_args()
    print(f"{'set':20} {'nuclei':>6} {'um':>5} {'own':>5} {'other':>5} wrong  noticed when damaged")
    for name, split in SETS.items():
        card = load_card(name)
        split = split if split in card.splits else next(iter(card.splits))
        try:
            samples = [sample for sample in load_samples(card, split, limit=given.images) if len(sample)]
        except InputError as error:
            print(f"{name:20} {error}")
            continue
        sizes = [np.sqrt(np.prod(s.boxes[:, 2:] - s.boxes[:, :2], axis=1)) * s.mpp for s in samples]
        places = look_under(samples)
        noticed = []
        for damage, change in DAMAGES.items():
            damaged = []
            for sample in samples:
                size = np.array(sample.image.shape[1::-1], dtype=np.float64)
                points = change(sample.points.astype(np.float64), size, sample.mpp)
                inside = ((points >= 0) & (points < size)).all(1)
                shift = np.tile(points - sample.points, 2)
                damaged.append(replace(sample, points=points, boxes=sample.boxes + shift).keep(inside))
            noticed.append(f"{damage} {'yes' if look_under(damaged).is_wrong else 'NO'}")
        numbers = f"{np.median(np.concatenate(sizes)):5.1f} {places.own:5.2f} {places.other:5.2f}"
        print(f"{name:20} {places.count:6} {numbers} {'WRONG' if places.is_wrong else 'no':5}  {', '.join(noticed)}")


if __name__ == "__main__":
    main()
