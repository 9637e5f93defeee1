"""Clusters of embeddings: a graph of nearest neighbours, Leiden on it, and a vote of the nearest for the rest.

Scanpy's neighbours (with UMAP's weights) and Leiden (igraph's), with exact neighbours, so that a seed settles the
result. Traag et al., Sci. Rep. 2019 (Leiden); McInnes et al. 2018 (UMAP).
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
MAPPED = 10_000  # cells of the UMAP; more take minutes and cover each other
ITERATIONS = 2  # of Leiden, as scanpy recommends


@dataclass(frozen=True)
class Grouping:
    """Clusters of n vectors.

    Attributes:
        labels: (n,) 0 is the largest cluster; of equals, that of the first vector.
        points: (n, 2) places on a UMAP; NaN for those that are not on it.
    """

    labels: NDArray[np.int32]
    points: NDArray[np.float32]


def scanpy_module() -> Any:
    """scanpy, with igraph and faiss installed too.

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
    """Cluster (n, d) unit vectors by Leiden on the graph of so many neighbours each, and lay them out."""
    scanpy = scanpy_module()
    n = len(vectors)
    points = np.full((n, 2), np.nan, np.float32)
    if n < 3:
        return Grouping(np.zeros(n, np.int32), points)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scanpy, about its own next version
        cells = _graph(scanpy, vectors, neighbours, seed)
        scanpy.tl.leiden(
            cells, resolution=resolution, flavor="igraph", n_iterations=ITERATIONS, directed=False, random_state=seed
        )
        labels = by_size(cells.obs["leiden"].astype(int).to_numpy())
        if n > neighbours:  # of fewer there is nothing to lay out
            mapped = np.arange(n)
            if n > MAPPED:
                mapped = np.sort(np.random.default_rng(seed).choice(n, MAPPED, replace=False))
                cells = _graph(scanpy, vectors[mapped], neighbours, seed)
            scanpy.tl.umap(cells, init_pos=_principal_axes(vectors[mapped]), random_state=seed)
            points[mapped] = cells.obsm["X_umap"]
    return Grouping(labels, points)


def _graph(scanpy: Any, vectors: NDArray[np.float32], neighbours: int, seed: int) -> Any:
    import anndata
    from sklearn.neighbors import KNeighborsTransformer

    k = min(neighbours, len(vectors) - 1)
    cells = anndata.AnnData(vectors)
    exact = KNeighborsTransformer(n_neighbors=k, algorithm="brute", metric="euclidean")  # of unit vectors: as cosine
    scanpy.pp.neighbors(cells, n_neighbors=k, use_rep="X", transformer=exact, random_state=seed)
    return cells


def _principal_axes(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 2) places where the UMAP begins: on the first two principal components, within 10 of the middle."""
    from sklearn.decomposition import PCA

    start = PCA(2, svd_solver="covariance_eigh").fit_transform(vectors)
    return np.asarray(10 * start / max(float(np.abs(start).max()), 1e-9), dtype=np.float32)


def by_size(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """Labels renumbered: the largest cluster is 0; of equals, the one that comes first."""
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -counts))
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order))
    return number[inverse]


class Assigner:
    """Gives vectors the cluster that most of their nearest sampled vectors are in; of equals, the nearest one's.

    Args:
        sample: (n, d) unit vectors.
        labels: (n,) their clusters.
        neighbours: that vote.
        seed: of the index's centroids.
    """

    def __init__(self, sample: NDArray[np.float32], labels: NDArray[np.int32], neighbours: int, seed: int) -> None:
        self._labels, self._k = labels, min(neighbours, len(sample))
        centroids = ivf.train(sample, ivf.lists_for(len(sample)), seed)
        self._index = ivf.make_lists(ivf.quantizer_of(centroids), [(0, sample)])

    def __call__(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(m, d) unit vectors -> (m,) clusters and (m,) share of the voters that are for it."""
        _, nearest = self._index.search(np.ascontiguousarray(vectors), self._k)
        is_vote = nearest != ivf.NONE
        labels = np.where(is_vote, self._labels[nearest], 0)
        rows = np.arange(len(vectors))
        votes = np.zeros((len(vectors), int(self._labels.max(initial=0)) + 1), np.float32)
        np.add.at(votes, (rows[:, None], labels), is_vote)
        share = votes / np.maximum(is_vote.sum(1), 1)[:, None]
        votes[rows, labels[:, 0]] += 0.5  # of equals the nearest one's
        winner = votes.argmax(1)
        return winner.astype(np.int32), share[rows, winner].astype(np.float32)
