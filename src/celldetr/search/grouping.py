"""Groups of embeddings: a graph of nearest neighbours, Leiden on it, and the nearest sampled cells' group for the rest.

Scanpy's neighbours (UMAP's weights) and Leiden (igraph's), so that it is what one gets there, on unit vectors and exact
neighbours, so that a seed settles it. Time grows faster than the number of cells, hence the sample: Traag et al., Sci.
Rep. 2019 (Leiden); McInnes et al. 2018 (UMAP).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError, install
from celldetr.search import ivf

EXTRA = "cluster-cells"
MAPPED = 10_000  # cells of the map; more take minutes and cover each other
ROUNDS = 2  # of Leiden, as scanpy recommends


@dataclass(frozen=True)
class Grouping:
    """Groups of n vectors.

    Attributes:
        labels: (n,) 0 is the largest group; of equals, that of the first vector.
        points: (n, 2) places on a UMAP; NaN for those that are not on it.
    """

    labels: NDArray[np.int32]
    points: NDArray[np.float32]


def scanpy_module() -> Any:
    """scanpy, once igraph and faiss are known to be there.

    Raises:
        InputError: one of them is not installed.
    """
    try:
        import faiss  # noqa: F401
        import igraph  # noqa: F401
        import scanpy
    except ImportError as error:
        raise InputError(f"celldetr cluster needs {error.name}, which is not installed: {install(EXTRA)}") from None
    return scanpy


def group(vectors: NDArray[np.float32], resolution: float, neighbours: int, seed: int) -> Grouping:
    """Group (n, d) unit vectors.

    Args:
        vectors: of length 1 each.
        resolution: of Leiden's modularity; larger makes more groups.
        neighbours: of each in the graph.
        seed: of Leiden and of the map.

    Raises:
        InputError: scanpy, igraph or faiss is not installed.
    """
    scanpy = scanpy_module()
    n = len(vectors)
    points = np.full((n, 2), np.nan, np.float32)
    if n < 3:
        return Grouping(np.zeros(n, np.int32), points)
    cells = _graph(scanpy, vectors, neighbours, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scanpy, about its own next version
        scanpy.tl.leiden(
            cells, resolution=resolution, flavor="igraph", n_iterations=ROUNDS, directed=False, random_state=seed
        )
    shown = np.arange(n)
    if n > MAPPED:
        shown = np.sort(np.random.default_rng(seed).choice(n, MAPPED, replace=False))
        mapped = _graph(scanpy, vectors[shown], neighbours, seed)
    else:
        mapped = cells
    if n > neighbours:  # of fewer there is nothing to lay out
        points[shown] = _lay_out(scanpy, mapped, seed)
    return Grouping(by_size(cells.obs["leiden"].astype(int).to_numpy()), points)


def _graph(scanpy: Any, vectors: NDArray[np.float32], neighbours: int, seed: int) -> Any:
    import anndata
    from sklearn.neighbors import KNeighborsTransformer

    k = min(neighbours, len(vectors) - 1)
    cells = anndata.AnnData(vectors)
    exact = KNeighborsTransformer(n_neighbors=k, algorithm="brute", metric="euclidean")  # of unit vectors: as cosine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy.pp.neighbors(cells, n_neighbors=k, use_rep="X", transformer=exact, random_state=seed)
    return cells


def _lay_out(scanpy: Any, cells: Any, seed: int) -> NDArray[np.float32]:
    centred = cells.X - cells.X.mean(axis=0)
    _, _, axes = np.linalg.svd(centred.T @ centred)
    start = centred @ axes[:2].T
    start = (10 * start / max(float(np.abs(start).max()), 1e-9)).astype(np.float32)
    if start.shape[1] < 2:
        start = np.pad(start, ((0, 0), (0, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy.tl.umap(cells, init_pos=start, random_state=seed)
    return np.asarray(cells.obsm["X_umap"], dtype=np.float32)


def by_size(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """Labels renumbered: the largest group is 0; of equals, the one that comes first."""
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -counts))
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order))
    return number[inverse]


class Assigner:
    """Gives vectors the group that most of their nearest sampled vectors are in; of equals, the nearest one's.

    Args:
        sample: (n, d) unit vectors.
        labels: (n,) their groups.
        neighbours: that vote.
        seed: of the index's centroids.
    """

    def __init__(self, sample: NDArray[np.float32], labels: NDArray[np.int32], neighbours: int, seed: int) -> None:
        self._labels, self._k = labels, min(neighbours, len(sample))
        centroids = ivf.train(sample, ivf.lists_for(len(sample)), seed)
        self._index = ivf.make_lists(ivf.quantizer_of(centroids), [(0, sample)])

    def __call__(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(m, d) unit vectors -> (m,) groups and (m,) share of the voters that are for it."""
        _, found = self._index.search(np.ascontiguousarray(vectors), self._k)
        there = found >= 0
        voted = np.where(there, self._labels[found], 0)
        lines = np.arange(len(vectors))
        votes = np.zeros((len(vectors), int(self._labels.max(initial=0)) + 1), np.float32)
        for column, is_there in zip(voted.T, there.T, strict=True):
            votes[lines, column] += is_there
        cast = np.maximum(there.sum(1), 1)
        share = votes / cast[:, None]
        votes[lines, voted[:, 0]] += 0.5
        winner = votes.argmax(1)
        return winner.astype(np.int32), share[lines, winner].astype(np.float32)
