"""Are the nearest cells on other slides of the same type? Precision of cross-slide retrieval, by correction.

CELLDETR_DATA=... python benchmarks/kin_across.py | tee benchmarks/results/kin_across.txt

The shipped weights find the cells of typed tiles, and each tile stands for a slide. For up to ``QUERIES`` cells a set,
the ``K`` nearest cells of other tiles by cosine are looked up: precision is the share of these that have the type of
the query, the mean over types; "one tile" is the share of neighbours on the tile that has most of them, which grows
where cells are compared by slide. The mixture is both sets with three types in common, asked across: the neighbours of
cells of one set among the cells of the other. Corrections:

- as they are: unit vectors;
- centred: less the mean of the tile; scaled: also over the standard deviation of each number in the tile;
- whitened: by the covariance of all cells (shrunk by ``SHRINK``), with one mean, or each tile's own;
- aligned: each tile whitened by its own covariance (CORAL, Sun et al. 2016).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celldetr.search.collection import unit
from teach_curve import NOTHING, SETS, Found, found_in

K = 20
QUERIES = 4000
SHRINK = 0.1
LEAST = 50  # cells of a tile
PARTS = (("consep", "train"), ("consep", "test"), ("brca-m2c", "val"), ("brca-m2c", "test"))
Vectors = NDArray[np.float32]


def vectors_of(found: Found, columns: int = 4) -> Vectors:
    """The unit embeddings, without the columns of stain behind them."""
    return found.features[:, : found.features.shape[1] - columns]


def by_tile(vectors: Vectors, tile: NDArray, change: Callable[[Vectors], Vectors]) -> Vectors:
    out = np.empty_like(vectors)
    for one in np.unique(tile):
        out[tile == one] = change(vectors[tile == one])
    return out


def whitening(vectors: Vectors) -> Vectors:
    """(d, d) of the covariance, shrunk towards its mean variance."""
    covariance = np.cov(vectors.T.astype(np.float64))
    mean = np.trace(covariance) / len(covariance)
    variances, turn = np.linalg.eigh((1 - SHRINK) * covariance + SHRINK * mean * np.eye(len(covariance)))
    return ((turn / np.sqrt(variances)) @ turn.T).astype(np.float32)


def centred(x: Vectors) -> Vectors:
    return x - x.mean(0)


CORRECTIONS: dict[str, Callable[[Vectors, NDArray], Vectors]] = {
    "as they are": lambda x, tile: x,
    "one mean": lambda x, tile: centred(x),
    "centred": lambda x, tile: by_tile(x, tile, centred),
    "half centred": lambda x, tile: x - x.mean(0) + by_tile(x, tile, centred),
    "scaled": lambda x, tile: by_tile(x, tile, lambda y: centred(y) / (y.std(0) + 1e-6)),
    "whitened": lambda x, tile: centred(x) @ whitening(x),
    "centred, whitened": lambda x, tile: (y := by_tile(x, tile, centred)) @ whitening(y),
    "aligned": lambda x, tile: by_tile(x, tile, lambda y: centred(y) @ whitening(y)),
}  # fmt: skip


def retrieve(vectors: Vectors, types: NDArray, groups: NDArray, tile: NDArray, rng: np.random.Generator) -> list[float]:
    """Precision at ``K`` among cells of other groups, mean over types, and the share of neighbours on one tile."""
    known = np.flatnonzero(types != NOTHING)
    asked = rng.permutation(known)[:QUERIES]
    x, right, one_tile = unit(vectors), np.empty(len(asked)), np.empty(len(asked))
    for start in range(0, len(asked), 256):
        some = asked[start : start + 256]
        similarity = x[some] @ x[known].T
        similarity[groups[some][:, None] == groups[known]] = -np.inf
        nearest = known[np.argpartition(-similarity, K, axis=1)[:, :K]]
        right[start : start + 256] = (types[nearest] == types[some][:, None]).mean(1)
        one_tile[start : start + 256] = [np.bincount(tile[row]).max() / K for row in nearest]
    kinds = [right[types[asked] == kind].mean() for kind in np.unique(types[asked])]
    return [float(np.mean(kinds)), float(one_tile.mean())]


def joined(parts: Sequence[Found]) -> tuple[Vectors, NDArray, NDArray, NDArray]:
    """Vectors, types, tiles and sets of several parts; tiles with few cells are left out."""
    tile = np.concatenate([part.tile + 1000 * i for i, part in enumerate(parts)])
    which = np.concatenate([np.full(len(part.tile), i) for i, part in enumerate(parts)])
    kept = np.bincount(tile)[tile] >= LEAST
    vectors, types = np.concatenate([vectors_of(p) for p in parts]), np.concatenate([p.types for p in parts])
    return vectors[kept], types[kept], tile[kept], which[kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small-20x")
    parser.add_argument("--kept", type=Path, metavar="FOLDER", help="as of teach_curve.py")
    options = parser.parse_args()
    parts = {key: found_in(*key, SETS[key[0]][2], options.model, options.kept) for key in PARTS}
    print(f"{'precision at ' + str(K) + ' (one tile)':22s}" + "".join(f"{' '.join(key):>20s}" for key in PARTS), end="")
    print(f"{'mixture, across':>20s}")
    # The three types of the sets mean the same but for their order.
    mixed = [parts[PARTS[0]], parts[PARTS[-1]]]
    sets = [*(joined([part]) for part in parts.values()), joined(mixed)]
    for name, correct in CORRECTIONS.items():
        cells = []
        for vectors, types, tile, which in sets:
            groups = tile if len(np.unique(which)) == 1 else which
            precision, one = retrieve(correct(vectors, tile), types, groups, tile, np.random.default_rng(0))
            cells.append(f"{precision:13.3f} ({one:.2f})")
        print(f"{name:22s}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
