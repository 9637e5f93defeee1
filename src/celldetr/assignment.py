"""Sparse one-to-one assignment of points: candidate pairs within a radius, and the cheapest matching among them.

Hungarian assignment on the graph of candidates instead of a full matrix of distances: connected components are solved
apart, by Jonker and Volgenant's algorithm for sparse matrices, so time grows with the number of points and not with its
cube. Used by the evaluation protocols and to pair cells of a section with nuclei of an image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Index = NDArray[np.intp]

BATCH = 1000  # left points solved in one call, whose time has a part that grows with their square


def candidate_pairs(left: Floats, right: Floats, radius: float) -> tuple[Index, Index, Floats]:
    """All pairs of points at most ``radius`` apart.

    Args:
        left: (M, 2) points.
        right: (N, 2) points, in the unit of ``left``.
        radius: in the same unit; a pair exactly at it counts.

    Returns:
        (E,) positions in ``left``, (E,) positions in ``right``, (E,) distances, in no particular order.
    """
    from scipy.spatial import cKDTree

    # The tree is asked for a hair more and the distances decided here, so that its rounding cannot lose the limit.
    reach = np.nextafter(radius * (1 + 1e-9), np.inf)
    near = cKDTree(left).sparse_distance_matrix(cKDTree(right), reach, output_type="ndarray")
    i, j = near["i"].astype(np.intp), near["j"].astype(np.intp)
    distance = np.linalg.norm(left[i] - right[j], axis=1)
    inside = distance <= radius
    return i[inside], j[inside], distance[inside]


def assign(left: Index, right: Index, cost: Floats, unmatched: float | None = None) -> Index:
    """The one-to-one matching of least total cost among candidate pairs.

    Args:
        left, right: (E,) positions of the two points of each candidate pair; a pair is a candidate once.
        cost: (E,) of each pair, 0 or more.
        unmatched: cost of leaving a left point without a partner; candidates above it are never chosen. None: as many
            pairs as possible, and among these matchings the cheapest.

    Returns:
        (P,) positions of the chosen candidates, rising.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    kept = np.arange(len(cost)) if unmatched is None else np.flatnonzero(cost <= unmatched)
    if not len(kept):
        return kept
    # By side, so that ties are settled by the positions of the points, whatever the order of the candidates.
    kept = kept[np.lexsort((right[kept], left[kept]))]
    cost = cost[kept]
    lefts, i = np.unique(left[kept], return_inverse=True)
    rights, j = np.unique(right[kept], return_inverse=True)
    size = len(lefts) + len(rights)
    edges = coo_array((np.ones(len(kept), np.int8), (i, j + len(lefts))), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    sizes = np.bincount(component[: len(lefts)])
    if unmatched is None:
        unmatched = float(cost.max()) * int(sizes.max()) + 1  # more than any exchange of pairs can save
    # Whole components are put together until they have some ``BATCH`` left points.
    batch = (np.cumsum(sizes) // BATCH)[component[i]]
    order = np.argsort(batch, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(batch[order])) + 1)
    return np.sort(np.concatenate([kept[part[_solve(i[part], j[part], cost[part], unmatched)]] for part in parts]))


def _solve(left: Index, right: Index, cost: Floats, unmatched: float) -> Index:
    """Positions of the chosen candidates of one batch."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    rows, row = np.unique(left, return_inverse=True)
    columns, column = np.unique(right, return_inverse=True)
    n, m = len(rows), len(columns)
    # Each left point has a dummy partner of its own. All are matched, so 1 more for each pair changes nothing; SciPy
    # takes a stored zero for no edge.
    weights = np.concatenate([cost, np.full(n, unmatched)]) + 1
    at = (np.concatenate([row, np.arange(n)]), np.concatenate([column, m + np.arange(n)]))
    matched, to = min_weight_full_bipartite_matching(csr_array((weights, at), shape=(n, m + n)))
    position = csr_array((np.arange(1, len(cost) + 1), (row, column)), shape=(n, m + n))
    real = to < m
    return np.asarray(position[matched[real], to[real]]).ravel() - 1


def assign_greedily(left: Index, right: Index, cost: NDArray[np.floating], rank: Index) -> Index:
    """A one-to-one matching in which each left point in turn takes the cheapest candidate that is still free.

    Args:
        left, right: (E,) positions of the two points of each candidate pair.
        cost: (E,) of each pair, a distance for example.
        rank: (M,) place of each left point in the order in which they choose.

    Returns:
        (P,) positions of the chosen candidates, in the order in which they were chosen.
    """
    taken_left, taken_right = set[int](), set[int]()
    chosen = []
    for edge in np.lexsort((right, cost, rank[left])).tolist():
        i, j = int(left[edge]), int(right[edge])
        if i not in taken_left and j not in taken_right:
            taken_left.add(i)
            taken_right.add(j)
            chosen.append(edge)
    return np.asarray(chosen, np.intp)
