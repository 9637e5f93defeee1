"""Decoupling and box-constrained attention where they could matter: four decoders, two sources of values, two of tiles.

    CELLDETR_DATA=<folder of the data sets> python benchmarks/ideas.py -o runs/ideas [--seeds 5] [--report]

The design is in docs/reports/ablation.md, "A study that can answer". A detector learns boxes only, once. Features of
training tiles are stored; each run trains a representation decoder and a type head on them and is scored at the true
boxes of CoNSeP's test tiles. What is finished is kept: the same command goes on with what is missing, and ends with the
table; a copy of benchmarks/results/ideas as OUT goes on from what is in the repository. The detector is trained anew
where OUT has none: copy whole seeds only, so that differences are between runs of one detector.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from celldetr.boxes import normalise_boxes
from celldetr.config import Recipe
from celldetr.data.augment import orient
from celldetr.data.card import load_card
from celldetr.data.dataset import as_tensors
from celldetr.data.sample import Sample
from celldetr.data.sources import load_samples, rescale
from celldetr.io.files import read_json, write_json
from celldetr.model.attention_trace import trace_attention
from celldetr.model.celldetr import CellDETR
from celldetr.model.checkpoint import Checkpoint, load_checkpoint
from celldetr.probe.location import TILE_PX, PlacedCells, movement, occluded, place_in_tile, readout
from celldetr.recipes import load_recipe
from celldetr.research.ablation.decoder import StoredCrop, StoredCrops, fit
from celldetr.research.attention import attention_inside, masked_samples
from celldetr.training.loop import train

# No position but the query's own, which is the paper's: what is left of the place came in by it.
FORM = (
    "model.coordinates=image",
    "model.border=replicate",
    "model.encoder_position=none",
    "model.level_norm=layer",
    "model.query_position=absolute",
    "model.free_offsets=cells",
)
DETECTOR = ("training.w_type=0", "training.steps=1000", "training.warmup=100")
DECODER = ("training.mode=parallel_jittered", "training.steps=400", "training.batch_size=8", "training.warmup=40")
ARMS = {
    "neither": ("model.decoupled=false", "model.constrained=false"),
    "decoupled": ("model.decoupled=true", "model.constrained=false"),
    "constrained": ("model.decoupled=false", "model.constrained=true"),
    "both": ("model.decoupled=true", "model.constrained=true"),
}
VALUES = ("backbone", "encoder")
TILES = ("natural", "placed")
MARKED = "epithelial"  # the type that lies on the left in placed tiles
CROPS = 400
LEAST_CELLS = 8  # of a training tile
OCCLUDED, MARGIN_PX = 200, 16

Tile = tuple[Sample, int]  # and the image it is from


def correlation(sample: Sample) -> float:
    """Correlation of x with being of the marked type, over the cells of a tile; 0 where one is constant."""
    marked = sample.types == sample.type_names.index(MARKED)
    if marked.all() or not marked.any():
        return 0.0
    return float(np.corrcoef(sample.points[:, 0], marked)[0, 1])


def cut(sample: Sample, x: int, y: int) -> Sample:
    """The tile at a corner, with the cells whose centres lie in it."""
    corner = np.array([x, y], np.float32)
    boxes = np.clip(sample.boxes - np.tile(corner, 2), 0, TILE_PX)
    points = sample.points - corner
    inside = ((points >= 0) & (points < TILE_PX)).all(1)
    return sample.keep(inside, image=sample.image[y : y + TILE_PX, x : x + TILE_PX], boxes=boxes, points=points)


def turned(tile: Sample, kind: str, rng: np.random.Generator) -> Sample:
    """One of the eight orientations: any (``natural``), or that with the marked type most to the left (``placed``) or
    to the right (``reversed``).
    """
    if kind == "natural":
        return orient(tile, int(rng.integers(8)))
    ways = [orient(tile, which) for which in range(8)]
    return (min if kind == "placed" else max)(ways, key=correlation)


def training_tiles(samples: Sequence[Sample], kind: str, seed: int) -> list[Sample]:
    """Random windows of the training images, the same for both kinds but for their orientation."""
    rng, tiles = np.random.default_rng(seed), list[Sample]()
    while len(tiles) < CROPS:
        sample = samples[int(rng.integers(len(samples)))]
        height, width = sample.image.shape[:2]
        tile = cut(sample, int(rng.integers(width - TILE_PX + 1)), int(rng.integers(height - TILE_PX + 1)))
        tile = turned(tile, kind, np.random.default_rng([seed, len(tiles)]))
        if len(tile) >= LEAST_CELLS:
            tiles.append(tile)
    return tiles


def test_tiles(samples: Sequence[Sample], kind: str) -> list[Tile]:
    """The four corners of every test image, oriented."""
    tiles = []
    for number, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        for place, (x, y) in enumerate(product((0, width - TILE_PX), (0, height - TILE_PX))):
            tiles.append((turned(cut(sample, x, y), kind, np.random.default_rng([number, place])), number))
    return tiles


@torch.inference_mode()
def store(network: CellDETR, tiles: Sequence[Sample], seed: int) -> StoredCrops:
    """Features of tiles: all levels of the backbone, and the encoder's memory."""
    crops, layout = list[StoredCrop](), None
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    for tile in tiles:
        item = as_tensors(tile)
        levels = network.levels(network.normalise(item.image[None]))
        sizes = torch.full((1, 2), float(TILE_PX))
        memory = network.encode_levels(levels, sizes, None).detection
        layout = layout or replace(memory, tokens=memory.tokens[:, :0])
        kept = {stride: level[0].half().clone() for stride, level in levels.items()}
        crops.append(StoredCrop(memory.tokens[0].half().clone(), kept, item.targets, nothing, torch.zeros(2)))
    assert layout is not None
    counts = np.bincount(np.concatenate([tile.types for tile in tiles]), minlength=len(tiles[0].type_names))
    return StoredCrops(crops, layout, counts.tolist(), seed)


@dataclass(frozen=True)
class TestSet:
    """Test tiles of a kind with their features, which no run changes.

    Attributes:
        tiles: with at least a cell.
        stored: their features.
    """

    tiles: list[Tile]
    stored: StoredCrops

    @classmethod
    def of(cls, network: CellDETR, tiles: Sequence[Tile]) -> TestSet:
        """Run the detector's backbone and encoder once over tiles."""
        kept = [tile for tile in tiles if len(tile[0])]
        return cls(kept, store(network, [sample for sample, _ in kept], 0))

    @torch.inference_mode()
    def embed(self, network: CellDETR) -> tuple[PlacedCells, NDArray[np.int64]]:
        """Cells at their true boxes, as a run's network describes them, and their true types."""
        parts = []
        for (tile, image), crop in zip(self.tiles, self.stored.crops, strict=True):
            batch = self.stored.collate([crop])
            boxes = normalise_boxes(torch.from_numpy(tile.boxes), TILE_PX, TILE_PX)[None]
            read = network.represent(network.complete(batch.memory, batch.levels), boxes, batch.origin)
            vectors, types = read.embeddings[0].numpy(), read.logits[0].argmax(-1).numpy()
            index = np.full(len(tile), image)
            parts.append((vectors, types, place_in_tile(tile.points), index, index, tile.types))
        *cells, truth = (np.concatenate(part) for part in zip(*parts, strict=True))
        return PlacedCells(*cells), truth


def occluded_pairs(network: CellDETR, tiles: Sequence[Tile]) -> tuple[TestSet, TestSet]:
    """Some cells of tiles, each alone in its tile: as it is, and with all but its box and a margin painted over."""
    cells = [(tile, number, i) for tile, number in tiles for i in range(len(tile))]
    chosen = [cells[k] for k in np.random.default_rng(0).permutation(len(cells))[:OCCLUDED]]
    before = [(tile.keep(np.arange(len(tile)) == i), number) for tile, number, i in chosen]
    after = [(replace(tile, image=occluded(tile.image, tile.boxes[0], MARGIN_PX)), number) for tile, number in before]
    return TestSet.of(network, before), TestSet.of(network, after)


def mean_f1(predicted: NDArray[np.int64], truth: NDArray[np.int64], kinds: Sequence[int]) -> float:
    """Mean over types of F1 at true boxes."""
    scores = []
    for kind in kinds:
        right = int(((predicted == kind) & (truth == kind)).sum())
        scores.append(2 * right / max(1, int((predicted == kind).sum() + (truth == kind).sum())))
    return float(np.mean(scores))


def score(
    network: CellDETR, tests: dict[str, TestSet], pairs: tuple[TestSet, TestSet], kinds: Sequence[int]
) -> dict[str, float]:
    """All numbers of a run."""
    scores = {}
    for kind, tests_of_kind in tests.items():
        cells, truth = tests_of_kind.embed(network)
        scores[f"type F1, {kind} tiles"] = mean_f1(cells.types, truth, kinds)
        if kind == "natural":
            r2 = readout(cells)["ridge"]
            scores["R2 of x"], scores["R2 of y"] = r2["x"], r2["y"]
            (before, _), (after, _) = (part.embed(network) for part in pairs)
            moved = movement(before.embeddings, after.embeddings, among=cells.embeddings)
            scores["occlusion moves"] = moved
            scores["occlusion changes types"] = float(np.mean(before.types != after.types))
    trace, mpp = partial(trace_attention, network), network.config.mpp
    shares = attention_inside(trace, mpp, masked_samples(load_card("consep"), "test"), TILE_PX)
    scores["attention in the mask"] = float(np.mean(shares.in_mask))
    scores["in the box"] = float(np.mean(shares.in_box))
    return scores


def recipe_of(arm: str, values: str, seed: int) -> Recipe:
    """The recipe of a run."""
    changes = (*FORM, *DECODER, *ARMS[arm], f"model.representation_values={values}", f"training.seed={seed}")
    return load_recipe("ablation-consep", list(changes))


def run(out: Path, seeds: int, say: Callable[[str], object]) -> None:
    """Do the runs that are not done."""
    folder = train(load_recipe("ablation-consep", [*FORM, *DETECTOR]), out / "detector", resume=True)
    detector: Checkpoint = load_checkpoint(folder)
    network = detector.network.eval()
    read = {
        split: [rescale(sample, network.config.mpp) for sample in load_samples(load_card(card), split)]
        for card, split in (("consep-train", "fit"), ("consep", "test"))
    }
    tiles = {kind: test_tiles(read["test"], kind) for kind in ("natural", "placed", "reversed")}
    tests = {kind: TestSet.of(network, each) for kind, each in tiles.items()}
    pairs = occluded_pairs(network, tiles["natural"])
    kinds = [read["test"][0].type_names.index(name) for name in ("epithelial", "inflammatory", "spindle")]
    for seed, kind in product(range(seeds), TILES):
        todo = [pair for pair in product(ARMS, VALUES) if not result_file(out, *pair, kind, seed).is_file()]
        if not todo:
            continue
        crops = store(network, training_tiles(read["fit"], kind, seed), seed)
        for arm, values in todo:
            start = time.monotonic()
            trained, loss = fit(recipe_of(arm, values, seed), detector, crops, "cpu")
            scores = score(trained.eval(), tests, pairs, kinds) | {"loss": loss, "seconds": time.monotonic() - start}
            path = result_file(out, arm, values, kind, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, scores)
            say(f"{path.relative_to(out)}  {json.dumps({key: round(value, 3) for key, value in scores.items()})}")


def result_file(out: Path, arm: str, values: str, kind: str, seed: int) -> Path:
    """Where the numbers of a run are."""
    return out / f"{kind}-{values}" / arm / f"seed{seed}.json"


def report(out: Path, seeds: int) -> str:
    """Means over the seeds that are done, and of the paired differences to ``neither`` their mean and range."""
    lines = []
    for kind, values in product(TILES, VALUES):
        done = {
            arm: {
                s: read_json(path) or {}
                for s in range(seeds)
                if (path := result_file(out, arm, values, kind, s)).is_file()
            }
            for arm in ARMS
        }
        if not all(done.values()):
            continue
        names = [name for name in next(iter(done["both"].values())) if name not in ("loss", "seconds")]
        lines += [
            f"\ntrained on {kind} tiles, values of the {values}",
            f"{'':24s}" + "".join(f"{arm:>32s}" for arm in ARMS),
        ]
        for name in names:
            row = f"{name:24s}"
            for runs in done.values():
                row += f"{np.mean([run[name] for run in runs.values()]):7.3f}"
                pairs = [run[name] - done["neither"][s][name] for s, run in runs.items() if s in done["neither"]]
                row += f"  ({np.mean(pairs):+.3f} {min(pairs):+.3f} {max(pairs):+.3f})" if pairs else ""
            lines.append(row)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--report", action="store_true", help="run nothing")
    given = parser.parse_args()
    if not given.report:
        run(given.out, given.seeds, lambda line: print(line, flush=True))
    print(report(given.out, given.seeds))


if __name__ == "__main__":
    main()
