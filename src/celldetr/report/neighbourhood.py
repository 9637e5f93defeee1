"""Which types lie beside which: neighbourhood enrichment and distances, from positions and types alone.

Neighbours are the six nearest cells, as in squidpy's ``gr.spatial_neighbors`` of a generic section, and the enrichment
is its ``gr.nhood_enrichment``: the number of pairs of a cell of type a with a neighbour of type b, as a z score against
types shuffled over the cells. Shuffling is not simulated: mean and variance of the number over all shuffles are known
exactly (join counts under randomisation, as of Cliff and Ord, Spatial Processes, 1981; here for directed graphs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.reader import CellTable, numbers

NEIGHBOURS = 6
CHUNK = 100_000  # cells whose neighbours are looked up at once
QUERIES = 20_000  # cells of a type whose distances are measured, drawn at random
FEWEST = 20  # cells of a type, below which nothing is said of it

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Neighbourhood:
    """How K types lie to one another.

    Attributes:
        z: (K, K) z score of the pairs of a cell of the row's type with a neighbour of the column's type; NaN where a
            type has fewer than ``FEWEST`` cells.
        ratio: (K, K) such pairs over those expected if types were shuffled.
        distances: (K, K) median distance of a cell of the row's type to the nearest of the column's, um; NaN alike.
    """

    z: Matrix
    ratio: Matrix
    distances: Matrix


def neighbourhood(table: CellTable, seed: int = 0) -> Neighbourhood | None:
    """How the types of a table lie to one another; None with fewer than two cells more than ``NEIGHBOURS``.

    Reads positions and types only: 20 bytes a cell, and as much for the neighbours.
    """
    places, codes = _positions(table)
    if len(places) < NEIGHBOURS + 2:
        return None
    k = len(table.types)
    counts, degrees = _pairs(places, codes, k)
    z, ratio = enrichment(counts, np.bincount(codes, minlength=k), degrees)
    few = np.bincount(codes, minlength=k) < FEWEST
    distances = _distances(places, codes, k, np.random.default_rng(seed))
    for values in (z, ratio, distances):
        values[few] = np.nan
        values[:, few] = np.nan
    return Neighbourhood(z, ratio, distances)


def _positions(table: CellTable) -> tuple[Matrix, NDArray[np.intp]]:
    """(N, 2) um and (N,) types."""
    places, codes = np.empty((table.count, 2)), np.empty(table.count, np.intp)
    start = 0
    for batch in table.batches(("x_um", "y_um", "type")):
        rows = slice(start, start + len(batch))
        places[rows, 0], places[rows, 1] = numbers(batch, "x_um"), numbers(batch, "y_um")
        codes[rows] = table.type_codes(batch)
        start = rows.stop
    return places, codes


@dataclass(frozen=True)
class Degrees:
    """Sums over a directed graph without loops: edges, edges that go both ways, and of degrees of the nodes."""

    edges: float
    mutual: float
    out_out: float  # sum of squares of the numbers of edges out of a node
    in_in: float
    in_out: float  # sum of products of the edges into and out of a node


def _pairs(places: Matrix, codes: NDArray[np.intp], k: int) -> tuple[Matrix, Degrees]:
    """(K, K) pairs of a cell and its neighbour by their types, and the graph's degrees."""
    from scipy.spatial import cKDTree

    n = len(places)
    tree = cKDTree(places)
    near = np.empty((n, NEIGHBOURS), np.int32)
    counts = np.zeros((k, k))
    for start in range(0, n, CHUNK):
        rows = np.arange(start, min(start + CHUNK, n))
        found = tree.query(places[rows], NEIGHBOURS + 1)[1]
        # A cell is its own nearest one, unless another lies at the same place.
        own = found == rows[:, None]
        own[~own.any(1), -1] = True
        near[rows] = found[~own].reshape(len(rows), NEIGHBOURS)
        flat = codes[rows].repeat(NEIGHBOURS) * k + codes[near[rows]].ravel()
        counts += np.bincount(flat, minlength=k * k).reshape(k, k)
    into = np.bincount(near.ravel(), minlength=n).astype(np.float64)
    mutual = sum(
        int((near[near[start : start + CHUNK]] == np.arange(start, min(start + CHUNK, n))[:, None, None]).any(2).sum())
        for start in range(0, n, CHUNK)
    )
    edges = float(n * NEIGHBOURS)
    return counts, Degrees(edges, mutual, edges * NEIGHBOURS, float(into @ into), NEIGHBOURS * float(into.sum()))


def enrichment(counts: Matrix, cells: NDArray[np.int64], degrees: Degrees) -> tuple[Matrix, Matrix]:
    """(K, K) z scores and ratios of counted pairs over all shuffles of the types of ``cells`` (K,).

    NaN where the shuffles do not differ, or no pair is expected.
    """
    n, size = float(cells.sum()), cells.astype(np.float64)
    others = np.maximum(n - np.arange(1, 4), 1.0)
    two, three, four = n * others[0], n * others[0] * others[1], n * others[0] * others[1] * others[2]
    a, b = size[:, None], size[None]
    same = np.eye(len(size), dtype=bool)
    one_less, two_less, three_less = a - 1, a - 2, a - 3
    # Probabilities that nodes have the types which a pair of edges asks of them.
    pair = np.where(same, a * one_less, a * b) / two
    source = np.where(same, a * one_less * two_less, a * b * (b - 1)) / three
    target = np.where(same, a * one_less * two_less, a * one_less * b) / three
    chain = np.where(same, a * one_less * two_less, 0.0) / three
    apart = np.where(same, a * one_less * two_less * three_less, a * one_less * b * (b - 1)) / four
    back = np.where(same, pair, 0.0)
    e, r = degrees.edges, degrees.mutual
    from_one, to_one, along = degrees.out_out - e, degrees.in_in - e, 2 * (degrees.in_out - r)
    rest = e * e - e - r - from_one - to_one - along
    mean = e * pair
    square = e * pair + r * back + from_one * source + to_one * target + along * chain + rest * apart
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(spread > 1e-9 * np.maximum(mean, 1), (counts - mean) / spread, np.nan)
        ratio = np.where(mean > 0, counts / mean, np.nan)
    return z, ratio


def _distances(places: Matrix, codes: NDArray[np.intp], k: int, rng: np.random.Generator) -> Matrix:
    """(K, K) median distance of a cell of one type to the nearest other cell of a type; NaN without such cells."""
    from scipy.spatial import cKDTree

    of_type = [places[codes == code] for code in range(k)]
    drawn = [some if len(some) <= QUERIES else rng.choice(some, QUERIES, replace=False) for some in of_type]
    medians = np.full((k, k), np.nan)
    for to, cells in enumerate(of_type):
        tree = cKDTree(cells) if len(cells) else None
        for of, some in enumerate(drawn):
            nearest = 2 if of == to else 1  # the nearest of its own type is the cell itself
            if tree is not None and len(some) and len(cells) >= nearest:
                found = tree.query(some, [nearest])[0]
                medians[of, to] = float(np.median(found))
    return medians
