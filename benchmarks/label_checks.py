"""Do the checks of labels pass published sets, and notice their labels read wrongly?

For each set: the median size of its nuclei, and how dark its labels lie (deviations of the stain of their image), as
they are and in the best other way of reading them. Then labels are damaged in every way that is looked for.

    CELLDETR_DATA=<folder> python benchmarks/label_checks.py        # log: benchmarks/results/label_checks.txt
    CELLDETR_DATA=<folder> python benchmarks/label_checks.py --few  # log: benchmarks/results/label_checks_few.txt

With --few: of how many images a few nuclei, drawn at random, are said to lie elsewhere than they do; as they are, and
divided as if they were in micrometres.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from celldetr.data.card import load_card
from celldetr.data.label_checks import MICROMETRES, look_under
from celldetr.data.sample import Sample
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


FEW = (1, 2, 3, 5, 10, 20)  # nuclei
DRAWS = 4  # of each image


def moved(sample: Sample, points: np.ndarray) -> Sample:
    """A sample with other places; those outside are left out."""
    inside = ((points >= 0) & (points < sample.image.shape[1::-1])).all(1)
    return replace(sample, points=points, boxes=sample.boxes + np.tile(points - sample.points, 2)).keep(inside)


def few(images: int) -> None:
    """Print how often a few nuclei get the hint that they lie elsewhere."""
    rng, said = np.random.default_rng(0), {count: list[tuple[bool, bool]]() for count in FEW}
    for name, split in SETS.items():
        card = load_card(name)
        split = split if split in card.splits else next(iter(card.splits))
        for sample in load_samples(card, split, limit=images):
            for count in FEW:
                for _ in range(DRAWS if len(sample) >= count else 0):
                    own = sample.keep(np.isin(np.arange(len(sample)), rng.choice(len(sample), count, replace=False)))
                    scaled = moved(own, own.points * own.mpp)
                    hints = [look_under([each]).hint for each in (own, scaled)]
                    said[count].append((bool(hints[0]), hints[1] == MICROMETRES))
    print("nuclei   drawn  doubted as they are  told to be micrometres when they are")
    for count, pairs in said.items():
        wrong, found = np.mean(pairs, axis=0)
        print(f"{count:6d} {len(pairs):7d} {wrong:20.3f} {found:38.3f}", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=30, help="of each set")
    parser.add_argument("--few", action="store_true", help="of a few nuclei")
    given = parser.parse_args()
    if given.few:
        few(given.images)
        return
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
                damaged.append(moved(sample, change(sample.points.astype(np.float64), size, sample.mpp)))
            noticed.append(f"{damage} {'yes' if look_under(damaged).is_wrong else 'NO'}")
        numbers = f"{np.median(np.concatenate(sizes)):5.1f} {places.own:5.2f} {places.other:5.2f}"
        print(f"{name:20} {places.count:6} {numbers} {'WRONG' if places.is_wrong else 'no':5}  {', '.join(noticed)}")


if __name__ == "__main__":
    main()
