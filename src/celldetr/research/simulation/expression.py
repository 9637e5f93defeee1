"""Expression of simulated cells: real profiles of a reference, seen as an instrument sees them.

A cell takes the profile of a random reference cell of its type. What is counted of it is a multinomial draw of few
transcripts (dropout is what such a draw leaves at zero) from a mixture: its own profile, the section's mean (ambient
signal), and its neighbours (transcripts that segmentation gives to the wrong cell). Each gene is caught with its own
efficiency, as probes differ from sequencing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Config, Count, Positive, Probability
from celldetr.errors import InputError, near

if TYPE_CHECKING:
    import anndata

CHUNK = 20_000  # cells whose probabilities are dense at once


class ExpressionOptions(Config):
    """How transcripts are drawn. Defaults are those of a decent Xenium run."""

    genes: Count = 400  # of the panel
    median_counts: Positive = 120.0  # transcripts of a cell: median of a log-normal
    counts_sd: float = Field(0.5, ge=0)  # standard deviation of the logarithm of that
    ambient: Probability = 0.05  # share of transcripts from the section's mean profile
    spill: Probability = 0.10  # share from neighbours within spill_um
    spill_um: Positive = 15.0  # between centres
    efficiency_sd: float = Field(0.3, ge=0)  # of the logarithm of a gene's efficiency against the reference


def choose_panel(reference: anndata.AnnData, column: str, genes: int, rng: np.random.Generator) -> list[str]:
    """Genes of a panel: half those that differ most between types, half any others that are expressed.

    Real panels are made of markers, and of genes of interest that are none.

    Raises:
        InputError: the reference has fewer expressed genes.
    """
    profiles = _type_profiles(reference, column)
    expressed = np.flatnonzero(profiles.sum(axis=0) > 0)
    if len(expressed) < genes:
        raise InputError(f"genes={genes}: the reference has {len(expressed)} expressed genes; choose a smaller panel")
    spread = np.sqrt(profiles[:, expressed]).var(axis=0)  # amplitudes: differences of rare and common genes compare
    ranked = expressed[np.argsort(-spread, kind="stable")]
    markers = ranked[: (genes + 1) // 2]
    others = rng.choice(ranked[len(markers) :], genes - len(markers), replace=False)
    return [str(name) for name in reference.var_names[np.sort(np.concatenate([markers, others]))]]


def _type_profiles(reference: anndata.AnnData, column: str) -> NDArray[np.float64]:
    """Mean share of each gene in a type's transcripts -> (K, G)."""
    import pandas as pd

    codes = pd.Categorical(reference.obs[column]).codes
    sums = np.stack(
        [np.asarray(reference.X[codes == k].sum(axis=0)).ravel().astype(np.float64) for k in range(codes.max() + 1)]
    )
    return sums / np.maximum(sums.sum(axis=1, keepdims=True), 1e-12)


def neighbour_means(points: NDArray[np.float64], radius: float) -> Any:
    """(N, N) CSR: each row averages the cells within a radius; empty where there are none."""
    from scipy.sparse import coo_matrix, diags
    from scipy.spatial import cKDTree

    pairs = cKDTree(points).query_pairs(radius, output_type="ndarray")
    rows, columns = np.concatenate([pairs, pairs[:, ::-1]]).T
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(points), len(points))).tocsr()
    return diags(1 / np.maximum(np.asarray(graph.sum(axis=1)).ravel(), 1)) @ graph


def draw_counts(
    types: Sequence[str],
    points: NDArray[np.float64],
    reference: anndata.AnnData,
    column: str,
    panel: Sequence[str],
    options: ExpressionOptions,
    rng: np.random.Generator,
) -> Any:
    """Counts of cells.

    Args:
        types: of each of the N cells, by their names in the reference.
        points: (N, 2) micrometres.
        reference: whole counts in ``X``; its types in ``obs[column]``.
        panel: names of G of its genes.

    Returns:
        (N, G) CSR int32.

    Raises:
        InputError: a type that the reference does not have, or without a transcript of the panel.
    """
    import pandas as pd
    from scipy.sparse import csr_matrix, vstack

    labels = pd.Categorical(reference.obs[column])
    known = [str(name) for name in labels.categories]
    counts = csr_matrix(reference[:, list(panel)].X, dtype=np.float64)
    usable = np.asarray(counts.sum(axis=1)).ravel() > 0
    picked = np.zeros(len(types), dtype=np.int64)
    wanted = np.asarray(types, dtype=object)
    for name in dict.fromkeys(types):
        if name not in known:
            raise InputError(f"the reference has no type {name!r} in {column!r}; {near(name, known)}")
        of_type = np.flatnonzero((labels.codes == known.index(name)) & usable)
        if not len(of_type):
            raise InputError(f"type {name!r}: no cell of the reference has a transcript of the panel; enlarge it")
        here = np.flatnonzero(wanted == name)
        picked[here] = rng.choice(of_type, len(here))
    efficiency = np.exp(rng.normal(0, options.efficiency_sd, len(panel)))
    source = csr_matrix(counts.multiply(efficiency[None, :]))
    total = np.asarray(source.sum(axis=1)).ravel()
    source = csr_matrix(source.multiply((1 / np.maximum(total, 1e-12))[:, None]))

    own = source[picked]
    ambient = np.asarray(own.mean(axis=0)).ravel()
    neighbours = neighbour_means(points, options.spill_um)
    lonely = np.diff(neighbours.indptr) == 0
    totals = np.maximum(np.round(options.median_counts * np.exp(rng.normal(0, options.counts_sd, len(types)))), 1)
    parts = []
    for start in range(0, len(types), CHUNK):
        part = slice(start, start + CHUNK)
        spill = np.where(lonely[part], 0.0, options.spill)[:, None]
        rates = (1 - options.ambient - spill) * own[part].toarray() + options.ambient * ambient
        rates += spill * (neighbours[part] @ own).toarray()
        rates = np.maximum(rates, 0)
        rates /= rates.sum(axis=1, keepdims=True)
        parts.append(csr_matrix(rng.multinomial(totals[part].astype(np.int64), rates).astype(np.int32)))
    return vstack(parts, format="csr") if parts else csr_matrix((0, len(panel)), dtype=np.int32)
