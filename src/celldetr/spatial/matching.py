"""The cheapest one-to-one matching of many points with few candidates each.

A matching pays the cost of each of its pairs, and ``alone`` for each left side that gets none: a pair is made where it
costs less than that, and what two would like goes to where the sum is least, not to who asks first. What no candidate
connects is solved apart, so time grows with the number of points, not with its cube.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from celldetr.spatial.coordinates import Floats

Index = NDArray[np.int64]
BATCH = 1000  # left sides solved in one call: its time has a part that grows with their square


def cheapest_matching(left: Index, right: Index, cost: Floats, alone: float) -> Index:
    """Choose among candidate pairs, each side at most once.

    Args:
        left, right: (E,) of each candidate; a pair is a candidate once.
        cost: (E,) of it, from 0 on; candidates above ``alone`` are never chosen.
        alone: the cost of a left side without a pair.

    Returns:
        (P,) positions of the chosen, rising.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    kept = np.flatnonzero(cost <= alone)
    if not len(kept):
        return kept
    # By side and cost, so that ties are settled by the numbers of the sides, whatever the order of candidates.
    kept = kept[np.lexsort((right[kept], left[kept]))]
    lefts, i = np.unique(left[kept], return_inverse=True)
    rights, j = np.unique(right[kept], return_inverse=True)
    size = len(lefts) + len(rights)
    graph = coo_array((np.ones(len(kept), np.int8), (i, j + len(lefts))), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    of_edge = component[i]
    # With one point on either side, the cheapest candidate is the answer; in tissue this leaves few to be solved.
    order = np.lexsort((cost[kept], of_edge))
    first = order[np.flatnonzero(np.diff(of_edge[order], prepend=-1))]
    left_count = np.bincount(component[: len(lefts)], minlength=component.max() + 1)
    right_count = np.bincount(component[len(lefts) :], minlength=component.max() + 1)
    is_star = np.minimum(left_count, right_count) == 1
    chosen = [first[is_star[of_edge[first]]]]
    hard = order[~is_star[of_edge[order]]]
    if len(hard):
        # Whole components are put together until they have some ``BATCH`` left sides.
        in_hard = np.where(is_star, 0, left_count)
        batch = (np.cumsum(in_hard) // BATCH)[of_edge[hard]]
        cuts = np.flatnonzero(np.diff(batch)) + 1
        chosen += [part[_solve(i[part], j[part], cost[kept][part], alone)] for part in np.split(hard, cuts)]
    return np.sort(kept[np.concatenate(chosen)])


def _solve(left: Index, right: Index, cost: Floats, alone: float) -> Index:
    """Positions of the chosen candidates of one batch, by sparse assignment with a place of its own for each left side.

    Jonker and Volgenant's algorithm for sparse matrices, as in SciPy.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    rows, row = np.unique(left, return_inverse=True)
    columns, column = np.unique(right, return_inverse=True)
    n, m = len(rows), len(columns)
    # Every left side is matched once, so that 1 more for each pair changes nothing; zeros would be no candidates.
    values = np.concatenate([cost, np.full(n, alone)]) + 1
    at = (np.concatenate([row, np.arange(n)]), np.concatenate([column, m + np.arange(n)]))
    matched, to = min_weight_full_bipartite_matching(csr_array((values, at), shape=(n, m + n)))
    position = csr_array((np.arange(1, len(cost) + 1), (row, column)), shape=(n, m + n))
    real = to < m
    return np.asarray(position[matched[real], to[real]]).ravel() - 1
