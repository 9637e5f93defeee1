"""What labels buy: type F1 for 50, 200 and 1000 labelled cells, from the shipped weights and from scratch.

CELLDETR_DATA=... python benchmarks/finetune_curve.py | tee benchmarks/results/finetune_curve.txt
python benchmarks/finetune_curve.py --draw benchmarks/results/finetune_curve.txt docs/images/finetune-curve.png

CoNSeP *train* (colon, four types, research only): labels are drawn from 20 of its tiles, and what is learned is scored
on the 7 others, through detection. Its test split is not touched. Labels are spent in two ways:

- scattered: cells drawn at random from all 20 tiles, what lies between them unlabelled (recipe ``finetune``: frozen
  detector, the threshold of the shipped weights);
- squares: from one tile after the other a square with up to 200 nuclei, all of them labelled, until the cells are
  spent (recipe ``finetune`` again, on those; ``finetune-all``: all weights learn; ``scratch``: the same network and the
  same steps from ImageNet). Networks that learn to detect get the threshold that is best on the very tiles they are
  scored on, which favours them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from celldetr.config import DataSource, Recipe
from celldetr.data.sample import Sample
from celldetr.data.sources import load_source
from celldetr.evaluation.image_cells import LOWEST_SCORE
from celldetr.evaluation.score import score_images
from celldetr.evaluation.threshold import THRESHOLD_PROTOCOLS, best_threshold
from celldetr.model.celldetr import CellDETR
from celldetr.model.inference import TilePredictor
from celldetr.recipes import load_recipe
from celldetr.training.data import TrainingData
from celldetr.training.loop import build
from celldetr.training.processes import start_fabric
from celldetr.training.trainer import Trainer
from celldetr.training.validation import PROTOCOL, predict_images

TYPES = ("inflammatory", "epithelial", "spindle", "other")
HELD_OUT = 7  # tiles
SQUARE_CELLS = 200  # most cells of a square
CELLS = (50, 200, 1000)
WIDTH = 22  # characters of an arm's name in the log
COLOURS = {
    "finetune, scattered": "C0",
    "finetune, squares": "C1",
    "finetune-all, squares": "C2",
    "scratch, squares": "C3",
}


def scattered(samples: list[Sample], count: int, rng: np.random.Generator) -> list[Sample]:
    """``count`` cells, at random."""
    owner = np.repeat(np.arange(len(samples)), [len(sample) for sample in samples])
    taken = np.zeros(len(owner), dtype=bool)
    taken[rng.choice(len(owner), min(count, len(owner)), replace=False)] = True
    parts = [(sample, taken[owner == i]) for i, sample in enumerate(samples)]
    return [sample.keep(mask) for sample, mask in parts if mask.any()]


def squares(samples: list[Sample], count: int, rng: np.random.Generator) -> list[Sample]:
    """Squares that hold ``count`` cells or a few more, each about a random cell of a tile of its own."""
    found: list[Sample] = []
    for index in rng.permutation(len(samples)):
        wanted = min(SQUARE_CELLS, count - sum(map(len, found)))
        if wanted <= 0:
            break
        found.append(square(samples[index], wanted, rng))
    return found


def square(sample: Sample, count: int, rng: np.random.Generator) -> Sample:
    """The smallest square about a random cell, moved into the tile, that holds ``count`` cells (or the whole tile)."""
    height, width = sample.image.shape[:2]
    centre = sample.points[rng.integers(len(sample))]
    for side in range(64, min(height, width) + 1, 8):
        x, y = (
            int(np.clip(round(c - side / 2), 0, size - side)) for c, size in zip(centre, (width, height), strict=True)
        )
        inside = ((sample.points >= (x, y)) & (sample.points < (x + side, y + side))).all(1)
        if inside.sum() >= count:
            break
    image = np.ascontiguousarray(sample.image[y : y + side, x : x + side])
    return sample.moved(image, np.ones(2, np.float32), -np.array([x, y], np.float32))


def recipe_of(arm: str, steps: int, seed: int, extra: list[str]) -> Recipe:
    """The recipe of an arm with the four types, ``steps`` steps and a seed."""
    name = arm.partition(",")[0]
    types = f"model.types=[{', '.join(TYPES)}]"
    common = [types, f"training.steps={steps}", f"training.seed={seed}", "training.workers=0", *extra]
    if name == "scratch":
        model = load_recipe("finetune-all").model
        same = [
            f"model.{key}={getattr(model, key)}" for key in ("mpp", "dropout", "encoder_layers", "detection_layers")
        ]
        crop = load_recipe("finetune-all").augment.crop
        return load_recipe(
            "small-20x", [*common, *same, f"augment.crop={crop}", "training.ema=0.99", "training.warmup=100"]
        )
    return load_recipe(name, common)


def learn(recipe: Recipe, samples: list[Sample]) -> tuple[CellDETR, float | None, float]:
    """Train as the recipe says; returns the averaged weights, the threshold if detection is frozen, and seconds."""
    labels = np.concatenate([sample.types for sample in samples])
    counts = np.bincount(labels[labels >= 0], minlength=len(TYPES)).tolist()
    fabric = start_fabric("cpu", 1)
    data = TrainingData(samples, [1.0] * len(samples), [], counts, counts)
    objective, source = build(recipe, data, fabric.device)
    trainer = Trainer(objective.loss, recipe.training, fabric)
    trainer.distribute()
    dataset = objective.dataset(recipe.training.steps * recipe.training.batch_size)
    start = time.perf_counter()
    for step, batch in enumerate(trainer.batches(dataset, objective.collate)):
        trainer.step(step, batch)
    kept = source.card.threshold if source and recipe.training.detection_frozen else None
    return trainer.average.module.network, kept, time.perf_counter() - start


def score(network: CellDETR, kept: float | None, held_out: list[Sample]) -> tuple[float, list[float]]:
    """Detection F1, and F1 of each type, on the held-out tiles, at a threshold or at the best."""
    predictor = TilePredictor(network, threshold=LOWEST_SCORE)
    images, _ = predict_images(predictor, held_out)
    try:
        threshold = best_threshold(images, THRESHOLD_PROTOCOLS).threshold if kept is None else kept
    except ValueError:  # nothing is found
        return 0.0, [0.0] * len(TYPES)
    report = score_images(images, TYPES, PROTOCOL, threshold=threshold, resamples=0)
    return report.totals.detection.f1 or 0.0, [counts.f1 or 0.0 for counts in report.totals.types]


def draw(log: Path, out: Path) -> None:
    """Mean type F1 over labelled cells, from a log: a point a run, a line through the means of an arm."""
    from matplotlib.figure import Figure

    rows: list[tuple[str, int, float]] = []
    for line in log.read_text(encoding="utf-8").splitlines():
        arm = line[:WIDTH].strip()
        if arm in COLOURS:
            cells, _, _, _, types = line[WIDTH:].split()[:5]
            rows.append((arm, int(cells), float(types)))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for arm in dict.fromkeys(row[0] for row in rows):
        mine = [(count, value) for name, count, value in rows if name == arm]
        counts = sorted({count for count, _ in mine})
        axis.plot(
            counts, [np.mean([v for c, v in mine if c == count]) for count in counts], color=COLOURS[arm], label=arm
        )
        axis.scatter(*zip(*mine, strict=True), color=COLOURS[arm], s=12)
    axis.set(xscale="log", xlabel="labelled cells", ylabel="mean F1 of four types (within 3 um)", ylim=(0, None))
    axis.set_xticks(CELLS, [str(count) for count in CELLS])
    axis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=list(CELLS))
    parser.add_argument("--seeds", type=int, default=3, help="draws of scattered cells")
    parser.add_argument("--square-seeds", type=int, default=1, help="draws of squares")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--arms", nargs="+", default=list(COLOURS), choices=list(COLOURS))
    parser.add_argument("--division", type=int, default=0, help="of the tiles; settings were chosen on division 1")
    parser.add_argument("--draw", type=Path, nargs=2, metavar=("LOG", "PNG"), help="draw a log, and do nothing else")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE changes to all recipes, for trials")
    args = parser.parse_args()
    if args.draw:
        draw(*args.draw)
        return
    mpp = load_recipe("finetune").model.mpp
    samples = load_source(DataSource(card="consep", split="train"), TYPES, mpp)
    order = np.random.default_rng(args.division).permutation(len(samples))
    held_out, pool = ([samples[i] for i in part] for part in (order[:HELD_OUT], order[HELD_OUT:]))
    print(
        f"{len(pool)} tiles to label, {len(held_out)} held out with {sum(map(len, held_out))} cells; {args.steps} steps"
    )
    print(f"{'arm':{WIDTH}} cells seed seconds detection types  {'  '.join(TYPES)}", flush=True)
    for arm in args.arms:
        for count in args.cells:
            for seed in range(args.seeds if arm.endswith("scattered") else args.square_seeds):
                rng = np.random.default_rng([seed, count])
                chosen = (scattered if arm.endswith("scattered") else squares)(pool, count, rng)
                network, kept, seconds = learn(recipe_of(arm, args.steps, seed, args.settings), chosen)
                detection, types = score(network, kept, held_out)
                cells = sum(map(len, chosen))
                each = "  ".join(f"{f1:{len(name)}.3f}" for name, f1 in zip(TYPES, types, strict=True))
                print(
                    f"{arm:{WIDTH}} {cells:5} {seed:4} {seconds:7.0f} {detection:9.3f} {np.mean(types):.3f}  {each}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
