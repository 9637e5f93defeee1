"""How many clicks teach a type? A simulated pathologist answers; macro F1 of the types of found cells against clicks.

CELLDETR_DATA=... python benchmarks/teach_curve.py --model small-20x | tee benchmarks/results/teach_curve.txt
CELLDETR_DATA=... python benchmarks/teach_curve.py --sets consep --finetune 100  # results/teach_curve_pan.txt
python benchmarks/teach_curve.py --draw benchmarks/results/teach_curve.txt docs/images/teach-curve.png
CELLDETR_DATA=... python benchmarks/teach_curve.py --choose | tee benchmarks/results/teach_rules.txt

The shipped weights find the cells of labelled tiles. A click on one is answered with the type of the nucleus within
3 um; where there is none of the three types, the click is spent for nothing. After every ``BATCH`` clicks the head
(``celldetr.teach``) learns anew. It is scored on the found cells of tiles that were never touched: CoNSeP (colon, which
the weights have never seen; clicks on its training tiles, scored on its test tiles) and BRCA-M2C (breast; the weights
learned from its training tiles, so clicks are on its validation tiles, scored on its test tiles).

Arms: clicks at random or on proposals; hand-made features (box, and the columns of shape and stain in the table) at
random; with --finetune the recipe ``finetune`` on the labels of the same random clicks (minutes each; nan where it was
not run). "all": the same head with the types of all found cells. Intervals are of the mean over seeds (Student's t,
95 %). The rule of proposals and the penalty of the head were chosen on CoNSeP's training tiles (--choose: clicks on 18
of them, scored on the 9 others, three divisions).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from celldetr.api import Model, load_model
from celldetr.cells.schema import SHAPE, STAIN
from celldetr.config import Recipe
from celldetr.data.card import load_card
from celldetr.data.sample import Sample
from celldetr.data.sources import load_samples
from celldetr.evaluation.pairing import pair_cells
from celldetr.model.hub import DEFAULT_MODEL
from celldetr.probe.classify import confusion, macro_f1
from celldetr.recipes import load_recipe
from celldetr.search.collection import unit
from celldetr.teach.features import COLUMNS
from celldetr.teach.head import LinearHead, Scaling
from celldetr.teach.proposals import propose

SETS = {
    "consep": ("train", "test", ("inflammatory", "epithelial", "spindle")),
    "brca-m2c": ("val", "test", ("lymphocyte", "epithelial", "stromal")),
}
CLICKS = (10, 20, 50, 100, 200, 500)
BATCH = 10
RADIUS_UM = 3.0
ARMS = ("proposals", "random", "hand-made")
RULES = ("random", "proposals", "least sure", "unsure of random")  # that were compared
DIVISIONS = 3
UNSURE_OF = 4  # random cells for each that is asked about, of which the rule "unsure of random" takes the least sure
NOTHING = -1  # answer to a click on what is no nucleus of these types


@dataclass(frozen=True)
class Found:
    """Found cells of some tiles: features (N, f), hand-made ones, true types (N,), the tile and nucleus of each."""

    features: NDArray[np.float32]
    handmade: NDArray[np.float32]
    types: NDArray[np.int64]
    tile: NDArray[np.int64]
    nucleus: NDArray[np.int64]

    def take(self, which: NDArray) -> Found:
        return Found(*(values[which] for values in vars(self).values()))


def find(model: Model, samples: Sequence[Sample], kinds: Sequence[str]) -> Found:
    """The found cells of tiles."""
    parts = []
    for tile, sample in enumerate(samples):
        table = model.predict(sample.image, sample.mpp)
        if not len(table):
            continue
        centres = table[["x_px", "y_px"]].to_numpy()
        found, true = pair_cells(centres, sample.points, RADIUS_UM / sample.mpp, rule="within_radius")
        code = np.array([kinds.index(name) if name in kinds else NOTHING for name in sample.type_names])
        nucleus, types = np.full(len(table), NOTHING), np.full(len(table), NOTHING)
        nucleus[found], types[found] = true, np.append(code, NOTHING)[sample.types[true]]
        vectors = unit(np.stack(table["embedding"]).astype(np.float32))
        columns = table[list(COLUMNS)].to_numpy(np.float32)
        size = table[["w_px", "h_px"]].to_numpy(np.float32) * sample.mpp
        handmade = np.concatenate([size, table[[*SHAPE, *STAIN]].to_numpy(np.float32)], axis=1)
        parts.append((np.concatenate([vectors, columns], axis=1), handmade, types, np.full(len(table), tile), nucleus))
    return Found(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def found_in(name: str, split: str, kinds: Sequence[str], model: str, kept: Path | None) -> Found:
    """``find`` in a split, or what it found before in a folder of such results."""
    path = None if kept is None else kept / f"{name}-{split}.npz"
    if path is not None and path.is_file():
        with np.load(path) as values:
            return Found(**values)
    found = find(load_model(model), load_samples(load_card(name), split), kinds)
    if path is not None:
        np.savez(path, **vars(found))
    return found


def clicks_of(
    pool: Found, ask_next: Callable[[LinearHead | None, NDArray, NDArray, int], NDArray], features: NDArray, kinds: int
) -> list[tuple[NDArray[np.int64], LinearHead | None]]:
    """The cells clicked so far, and what was learned from them, after each number of ``CLICKS``."""
    scaling = Scaling.of(features)
    asked, head, steps = np.zeros(0, np.int64), None, []
    for count in CLICKS:
        while len(asked) < min(count, len(features)):
            free = np.setdiff1d(np.arange(len(features)), asked)
            new = ask_next(head, free, asked, min(BATCH, count - len(asked)))
            asked = np.concatenate([asked, free[new]])
            known = asked[pool.types[asked] != NOTHING]
            if len(known):
                head = LinearHead.fit(features[known], pool.types[known], kinds, scaling)
        steps.append((asked, head))
    return steps


def taught(arm: str, pool: Found, kinds: int, seed: int) -> list[tuple[NDArray[np.int64], LinearHead | None]]:
    """``clicks_of`` an arm."""
    rng = np.random.default_rng(seed)
    own = pool.handmade if arm == "hand-made" else pool.features
    scaling = Scaling.of(own)

    def ask_next(head: LinearHead | None, free: NDArray, asked: NDArray, count: int) -> NDArray:
        if arm == "proposals":
            return propose(own[free], head, scaling, own[asked], count, seed)
        some = rng.permutation(len(free))
        if head is None or arm in ("random", "hand-made"):
            return some[:count]
        some = some[: UNSURE_OF * count] if arm == "unsure of random" else some
        best = np.partition(head.probabilities(own[free[some]]), -2, axis=1)[:, -2:]
        return some[np.argsort(best[:, 1] - best[:, 0])[:count]]

    return clicks_of(pool, ask_next, own, kinds)


def curve(arm: str, pool: Found, test: Found, kinds: int, seed: int) -> list[float]:
    """Macro F1 on the test cells after each number of ``CLICKS``."""
    others = test.handmade if arm == "hand-made" else test.features
    return [score(head, others, test.types, kinds) for _, head in taught(arm, pool, kinds, seed)]


def score(head: LinearHead | None, features: NDArray, types: NDArray, kinds: int) -> float:
    known = types != NOTHING
    if head is None:
        return 0.0
    return float(macro_f1(confusion(types[known], head.probabilities(features[known]).argmax(1), kinds)))


def with_all(pool: Found, test: Found, kinds: int, handmade: bool = False) -> float:
    own, others = (pool.handmade, test.handmade) if handmade else (pool.features, test.features)
    known = pool.types != NOTHING
    head = LinearHead.fit(own[known], pool.types[known], kinds, Scaling.of(own))
    return score(head, others, test.types, kinds)


def finetuned(
    pool: Found, samples: Sequence[Sample], tests: Sequence[Sample], recipe: Recipe, wanted: Sequence[int]
) -> list[float]:
    """Macro F1 of a recipe on the labels of the random clicks of its seed, after those of ``CLICKS`` in ``wanted``."""
    from celldetr.data.sources import map_types, rescale
    from celldetr.model.inference import TilePredictor
    from celldetr.slide.array import predict_array
    from finetune_curve import learn

    known, kinds, scores = samples[0].type_names, recipe.model.types, []
    mapping = {name: name if name in kinds else "" for name in known}
    tiles = [rescale(sample, recipe.model.mpp) for sample in map_types(samples, kinds, mapping)]
    for count, (asked, _) in zip(CLICKS, taught("random", pool, len(kinds), recipe.training.seed), strict=True):
        if count not in wanted:
            scores.append(float("nan"))
            continue
        clicked = pool.take(asked)
        labelled = []
        for tile, sample in enumerate(tiles):
            chosen = np.zeros(len(sample), bool)
            chosen[clicked.nucleus[(clicked.tile == tile) & (clicked.types != NOTHING)]] = True
            if chosen.any():
                labelled.append(sample.keep(chosen))
        network, threshold, _ = learn(recipe, labelled)
        counts = np.zeros((len(kinds), len(kinds)), np.int64)
        predictor = TilePredictor(network, threshold=threshold)
        for sample in map_types(tests, kinds, mapping):
            cells = predict_array(sample.image, sample.mpp, predictor)
            found, true = pair_cells(
                cells[["x_px", "y_px"]].to_numpy(), sample.points, RADIUS_UM / sample.mpp, rule="within_radius"
            )
            said, truth = cells["type"].cat.codes.to_numpy(np.int64)[found], sample.types[true]
            counts += confusion(truth[truth >= 0], said[truth >= 0], len(kinds))
        scores.append(float(macro_f1(counts)))
        print(f"finetune, seed {recipe.training.seed}, {count} clicks: {scores[-1]:.3f}", flush=True)
    return scores


def reached(mean: NDArray, target: float) -> float:
    """Clicks at which a mean curve first reaches a value, between ``CLICKS`` on their logarithm; NaN: not at all."""
    for i, value in enumerate(mean):
        if value >= target:
            if i == 0:
                return float(CLICKS[0])
            share = (target - mean[i - 1]) / (value - mean[i - 1])
            return float(np.exp(np.log(CLICKS[i - 1]) + share * np.log(CLICKS[i] / CLICKS[i - 1])))
    return float("nan")


def report(name: str, curves: dict[str, NDArray], every: dict[str, float]) -> None:
    """A table of arms (seeds, clicks) against clicks, and the clicks that each needs."""
    print(f"{name:18s}" + "".join(f"{count:>20d}" for count in CLICKS) + "       all")
    for arm, values in curves.items():
        mean = values.mean(0)
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values, axis=0) if len(values) > 1 else 0 * mean
        cells = "".join(f"   {m:.3f} ({m - h:.3f}-{m + h:.3f})" for m, h in zip(mean, half, strict=True))
        print(f"{arm:18s}{cells}   {every[arm]:.3f}")
    best = every["random"]
    for share in (0.9, 0.95):
        own = {arm: values for arm, values in curves.items() if every[arm] == best}
        needs = ", ".join(f"{arm} {reached(values.mean(0), share * best):.0f}" for arm, values in own.items())
        print(f"clicks to {share:.2f} of all ({share * best:.3f}): {needs}")
    at = CLICKS.index(100) if 100 in CLICKS else -1
    shares = ", ".join(f"{arm} {values.mean(0)[at] / best:.3f}" for arm, values in curves.items())
    print(f"{CLICKS[at]} clicks reach of all labels with the same head on embeddings: {shares}", flush=True)


def draw(log: Path, out: Path) -> None:
    """The curves of a log with their intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, len(SETS), sharey=True)
    lines = log.read_text(encoding="utf-8").splitlines()
    for axis, name in zip(axes, SETS, strict=True):
        start = next(i for i, line in enumerate(lines) if line.startswith(f"{name} ") and line.endswith("all"))
        clicks = [int(word) for word in lines[start].split()[1:-1]]
        for line in lines[start + 1 :]:
            if line.startswith("clicks"):
                break
            arm, words = line[:18].strip(), ["", *line[18:].split()]
            values = np.array(words[1:-1:2], float)
            low, high = np.array([word.strip("()").split("-") for word in words[2:-1:2]], float).T
            (drawn,) = axis.plot(clicks, values, marker=".", label=arm)
            axis.fill_between(clicks, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)
            if arm == "proposals":
                axis.axhline(float(words[-1]), color="grey", linestyle="--", linewidth=1, label="all labels")
        axis.set(xscale="log", xlabel="clicks", title=name)
        axis.set_xticks(clicks, [str(count) for count in clicks])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("macro F1 of found cells")
    axes[-1].legend(fontsize=8)
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--kept", type=Path, metavar="FOLDER", help="keep the found cells here, and use those kept")
    parser.add_argument(
        "--finetune", type=int, nargs="+", default=[], metavar="CLICKS", help="also fine-tune on so many random clicks"
    )
    parser.add_argument("--finetune-seeds", type=int, default=3)
    parser.add_argument("--choose", action="store_true", help="clicks and scores on CoNSeP's training tiles")
    parser.add_argument("--draw", type=Path, nargs=2, metavar=("LOG", "PNG"), help="draw a log, and do nothing else")
    options = parser.parse_args()
    if options.draw:
        draw(*options.draw)
        return
    if options.choose:
        choose(options)
        return
    for name in options.sets:
        first, second, kinds = SETS[name]
        pool, test = (found_in(name, split, kinds, options.model, options.kept) for split in (first, second))
        for part, cells in (("clicked on", pool), ("scored", test)):
            counts = np.bincount(cells.types + 1, minlength=len(kinds) + 1)
            listed = ", ".join(f"{count} {kind}" for kind, count in zip(kinds, counts[1:], strict=True))
            print(f"{name}, {part}: {len(cells.types)} found cells: {listed}, {counts[0]} of none of these", flush=True)
        seeds = range(options.seeds)
        curves = {arm: np.array([curve(arm, pool, test, len(kinds), seed) for seed in seeds]) for arm in ARMS}
        every = {arm: with_all(pool, test, len(kinds), arm == "hand-made") for arm in ARMS}
        if options.finetune:
            samples, tests = (load_samples(load_card(name), split) for split in (first, second))
            own = [f"init={options.model}", f"model.types=[{', '.join(kinds)}]", "training.workers=0"]
            recipes = [load_recipe("finetune", [*own, f"training.seed={s}"]) for s in range(options.finetune_seeds)]
            each = [finetuned(pool, samples, tests, recipe, options.finetune) for recipe in recipes]
            curves["finetune"] = np.array(each)
            every["finetune"] = float("nan")
        report(name, curves, every)


def choose(options: argparse.Namespace) -> None:
    """Compare rules on CoNSeP's training tiles."""
    kinds = SETS["consep"][2]
    cells = found_in("consep", "train", kinds, options.model, options.kept)
    tiles, divided = np.unique(cells.tile), []
    for division in range(DIVISIONS):
        order = np.random.default_rng(division).permutation(tiles)
        far = np.isin(cells.tile, order[: len(tiles) // 3])
        divided.append((cells.take(~far), cells.take(far)))
    every = float(np.mean([with_all(pool, test, len(kinds)) for pool, test in divided]))
    curves = {}
    for rule in RULES:
        each = [curve(rule, *parts, len(kinds), seed) for seed in range(options.seeds) for parts in divided]
        curves[rule] = np.array(each)
    report("rules", curves, dict.fromkeys(RULES, every))


if __name__ == "__main__":
    main()
