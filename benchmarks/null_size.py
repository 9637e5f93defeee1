"""How often do comparisons of two equal recipes find a difference? (``celldetr.research.ablation.compare``)

python benchmarks/null_size.py | tee benchmarks/results/null_size.txt

Two recipes that are the same are trained with S seeds each and compared on the same images, a thousand times over. Of
an interval of 95 % or a p of .05, one in twenty should say that they differ. Runs are drawn in two ways:

- *drawn*: F1 of 14 images, which differ by .08 (standard deviation). Runs differ as a whole and, on top of it, by
  image: *even* .006 and .02, *runs* .01 and .005, *images* .001 and .03.
- *trials*: finished trials of decoder-consep; which of two variants is which is drawn for each seed, so that on average
  they do not differ. There are five seeds.

Beside the interval of ``seeds_and_images`` are a bootstrap over images and seeds (*crossed*, as reports had it once)
and one that draws images for each drawn seed on its own (*nested*).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celldetr.evaluation.bootstrap import seeds_and_images
from celldetr.research.ablation.compare import holm, seeds_for_p, sign_flips
from celldetr.research.ablation.study import load_study
from celldetr.research.ablation.trial import read_results

IMAGES, CELLS = 14, 400
SPREADS = {"even": (0.006, 0.02), "runs": (0.01, 0.005), "images": (0.001, 0.03)}  # of runs, and of runs by image
RESULTS = Path(__file__).parent / "results" / "ablation"
Runs = NDArray[np.float64]  # (S, N, 2): numerator and denominator of a ratio in each image, as F1 and accuracy are


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print("Share of comparisons of equal recipes that find a difference at .05")
    print("runs    seeds  crossed  nested  interval  sign flips (least p)")
    for kind in SPREADS:
        for seeds in (2, 3, 5, 6, 8):
            pairs = (drawn_pair(rng, seeds, kind) for _ in range(options.repeats))
            show(kind, seeds, size(pairs, options.resamples, rng))
    trials = trial_runs()
    for seeds in (2, 3, 4, 5):
        pairs = (swapped_pair(rng, trials, seeds) for _ in range(options.repeats))
        show("trials", seeds, size(pairs, options.resamples, rng))
    print("\nFive contrasts to one baseline, sign flips after Holm: share of studies with any rejection")
    for seeds in (6, seeds_for_p(5), 10):
        print(f"drawn   {seeds:5d}  {study_size(rng, seeds, 4 * options.repeats):9.3f}", flush=True)


def show(runs: str, seeds: int, shares: list[float]) -> None:
    crossed, nested, interval, flips = shares
    p = f"{flips:10.3f} ({2.0 ** (1 - seeds):.3f})" if seeds >= seeds_for_p(1) else "      none"
    print(f"{runs:7s} {seeds:5d}  {crossed:7.3f}  {nested:6.3f}  {interval:8.3f}  {p}", flush=True)


def size(pairs: Iterator[tuple[Runs, Runs]], resamples: int, rng: np.random.Generator) -> list[float]:
    """Share of rejections at .05 of each way."""
    rejected = []
    for ours, theirs in pairs:
        each = ratio(ours.sum(1)) - ratio(theirs.sum(1))
        crossed, nested = resample(ours, theirs, resamples, rng)
        seeds = rng.integers(len(each), size=(resamples, len(each)))
        drawn = [np.take_along_axis(crossed, seeds, axis=1), np.take_along_axis(nested, seeds, axis=1)]
        limits = [np.percentile(draws.mean(1), [2.5, 97.5]) for draws in drawn]
        interval = seeds_and_images(each, crossed)
        assert interval is not None
        found = [not low <= 0 <= high for low, high in (*limits, interval)]
        rejected.append([*found, sign_flips(each) <= 0.05])
    shares: list[float] = np.mean(rejected, axis=0).tolist()
    return shares


def resample(ours: Runs, theirs: Runs, resamples: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """(R, S) differences on images drawn anew, for all seeds together and for each seed on its own."""
    seeds, images = ours.shape[:2]
    even = np.full(images, 1 / images)
    together = rng.multinomial(images, even, size=(resamples, 1)).repeat(seeds, axis=1)
    both = []
    for weight in (together, rng.multinomial(images, even, size=(resamples, seeds))):
        sums = [np.einsum("rsn,snc->rsc", weight, runs) for runs in (ours, theirs)]
        both.append(ratio(sums[0]) - ratio(sums[1]))
    return both[0], both[1]


def ratio(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(counts[..., 0] / counts[..., 1])


def drawn_pair(rng: np.random.Generator, seeds: int, kind: str) -> tuple[Runs, Runs]:
    images = rng.normal(0.75, 0.08, IMAGES)
    return drawn_runs(rng, images, seeds, kind), drawn_runs(rng, images, seeds, kind)


def drawn_runs(rng: np.random.Generator, images: NDArray[np.float64], seeds: int, kind: str) -> Runs:
    of_runs, by_image = SPREADS[kind]
    f1 = images + rng.normal(0, of_runs, (seeds, 1)) + rng.normal(0, by_image, (seeds, IMAGES))
    cells = np.random.default_rng(1).integers(CELLS // 2, 2 * CELLS, IMAGES)
    return np.stack([f1 * cells, np.broadcast_to(cells, f1.shape)], axis=-1)


def trial_runs() -> list[Runs]:
    """Types right, of cells found, of each image, in the five trials of each variant of decoder-consep."""
    study = load_study("decoder-consep")
    results = read_results(RESULTS, study)
    runs = []
    for variant in study.variants:
        own = sorted((r for r in results if r.variant == variant), key=lambda r: r.seed)
        counts = [
            [(sum(t.tp for t in image.types), sum(t.tp + t.fn for t in image.types)) for image in r.counts["standard"]]
            for r in own
        ]
        runs.append(np.array(counts, dtype=np.float64))
    return runs


def swapped_pair(rng: np.random.Generator, trials: list[Runs], seeds: int) -> tuple[Runs, Runs]:
    pairs = list(combinations(range(len(trials)), 2))
    a, b = pairs[int(rng.integers(len(pairs)))]
    chosen = rng.permutation(len(trials[a]))[:seeds]
    swap = (rng.random(seeds) < 0.5)[:, None, None]
    first, second = trials[a][chosen], trials[b][chosen]
    return np.where(swap, first, second), np.where(swap, second, first)


def study_size(rng: np.random.Generator, seeds: int, repeats: int) -> float:
    """Share of studies of a baseline and five equal variants in which any corrected p is at most .05."""
    found = 0
    for _ in range(repeats):
        runs = rng.normal(0, 1, (6, seeds))
        ps = {str(i): sign_flips(runs[i] - runs[0]) for i in range(1, 6)}
        found += min(holm(ps).values()) <= 0.05
    return found / repeats


if __name__ == "__main__":
    main()
