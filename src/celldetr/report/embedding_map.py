"""A map of embeddings: t-SNE of a random sample of cells, from the sample's principal components.

1,500 cells take a few seconds on one core. The sample is not balanced over types: the map shows what the slide holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celldetr.cells.reader import CellTable
from celldetr.cells.schema import embedding_matrix

SAMPLE = 1500  # cells; t-SNE's time grows faster than their number
COMPONENTS = 30  # principal components that t-SNE starts from
PERPLEXITY = 30
ITERATIONS = 400
FEWEST = 5 * PERPLEXITY  # with fewer cells t-SNE's neighbourhoods are the whole sample; principal components are shown


@dataclass(frozen=True)
class EmbeddingMap:
    """Positions (n, 2) of sampled cells, (n,) index of their types, and how they were laid out, for the caption."""

    points: NDArray[np.float64]
    codes: NDArray[np.intp]
    method: str


def sample_embeddings(table: CellTable, size: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """(n, d) embeddings and (n,) type codes of ``size`` random cells, or of all if there are fewer."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(table.count, min(size, table.count), replace=False))
    cells = table.take(chosen, ("embedding", "type"))
    return embedding_matrix(cells["embedding"]).astype(np.float32), table.type_codes(cells)


def _principal(vectors: NDArray[np.float32], components: int) -> NDArray[np.float64]:
    """(n, components) scores of the principal components; missing ones are zero."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    kept = min(components, len(size))
    scores = np.zeros((len(vectors), components))
    scores[:, :kept] = left[:, :kept] * size[:kept]
    return scores


def map_embeddings(table: CellTable, seed: int = 0) -> EmbeddingMap | None:
    """Lay out a sample of the cells in two dimensions; None if there are too few, or no embeddings."""
    if table.count < 3 or not table.embedding_dim:
        return None
    vectors, codes = sample_embeddings(table, SAMPLE, seed)
    finite = np.isfinite(vectors).all(axis=1)
    vectors, codes = vectors[finite], codes[finite]
    if len(vectors) < 3:
        return None
    whole = len(vectors) == table.count
    shown = f"the embeddings of {'all ' if whole else ''}{len(vectors):,} cells{'' if whole else ' drawn at random'}"
    points, method = lay_out(vectors, seed)
    return EmbeddingMap(points, codes, f"{method} of {shown}.")


def lay_out(vectors: NDArray[np.float32], seed: int = 0) -> tuple[NDArray[np.float64], str]:
    """Places (n, 2) of n >= 1 finite vectors (n, d) in which those alike lie close together, and the method's name."""
    components = min(COMPONENTS, vectors.shape[1])
    scores = _principal(vectors, max(components, 2))
    if len(vectors) < FEWEST or not scores[:, 1].any():
        return scores[:, :2], "First two principal components"
    from sklearn.manifold import TSNE

    tsne = TSNE(2, perplexity=PERPLEXITY, max_iter=ITERATIONS, init="pca", random_state=seed)
    points = np.asarray(tsne.fit_transform(scores), dtype=np.float64)
    return points, f"t-SNE (perplexity {PERPLEXITY}) of the first {components} principal components"
