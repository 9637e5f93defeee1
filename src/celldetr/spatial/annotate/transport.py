"""Types by optimal transport from a single-cell reference: TACCO (Mages et al., Nature Biotechnology 2023).

Cells of the section are transported onto the profiles of the reference's types. TACCO's own defaults are for spots that
mix cells, in a tissue composed like the reference. Cells of an imaging instrument are one type each, few transcripts,
and a section is composed as it is, so the defaults here differ; docs/how-to/spatial.md has the measurements.

Large sections are cut into tiles of cells drawn at random, so that each has the section's composition, and transported
one after the other with the same prior: memory follows the tile, not the section.
"""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Config, Count, Positive
from celldetr.errors import InputError, install
from celldetr.spatial.annotate.annotation import Annotation, Progress, uniform
from celldetr.spatial.annotate.reference import SharedGenes, shared_genes

if TYPE_CHECKING:
    import anndata

KEY = "type"


class TransportOptions(Config):
    """Settings of the transport; the names in parentheses are TACCO's."""

    epsilon: Positive = Field(
        0.02,
        description="Entropy: larger spreads probability over more types. TACCO's 0.005 makes doubtful cells look"
        " certain.",
    )
    # A reference is not composed as a section is, and holding cells to it mistypes half of them where it is far off.
    prior_strength: Positive = Field(
        0.001, description="How strongly a section must be composed as the prior (lamb; TACCO: 0.1)."
    )
    prior: Literal["uniform", "reference"] = Field("uniform", description="Composition of the section beforehand.")
    multi_center: Count = Field(5, description="Profiles a type, by k-means: types are not of one kind (TACCO: 1).")
    bisections: int = Field(
        0, ge=0, le=10, description="Rounds that explain a cell by several types (TACCO: 4); 0: one type a cell."
    )
    # Off, as it takes a difference of composition for one of technique.
    platform_iterations: int = Field(
        -1, ge=-1, le=10, description="Rescales genes until both pseudo-bulks agree (TACCO: 0, once); -1: not at all."
    )
    tile: Count = Field(20_000, description="Cells transported at once, about.")
    min_genes: int | None = Field(
        None, ge=1, description="Genes that must be shared; default: 50, or a tenth of the section's."
    )
    seed: int = Field(0, description="Of the cells that make a tile.")


def transport(
    section: anndata.AnnData,
    reference: anndata.AnnData,
    column: str,
    options: TransportOptions | None = None,
    progress: Progress | None = None,
) -> Annotation:
    """Transport the section's cells onto the types in ``column`` of a reference, as ``read_reference`` gives it.

    Cells without a transcript of a shared gene are unknown, and counted in ``facts["cells_without_genes"]``.

    Raises:
        InputError: TACCO is not installed, the genes hardly overlap, the reference has fewer than two types with
            transcripts of them, or no cell of the section has one.
    """
    try:
        import tacco
    except ImportError as error:
        raise InputError(f"TACCO cannot be imported ({error}); {install('spatial')}") from None
    options = options or TransportOptions()
    shared = shared_genes(section, reference, options.min_genes)
    profiles = _profiles(reference, column, shared)
    names = [str(name) for name in profiles.obs[KEY].cat.categories]
    if len(names) < 2:
        raise InputError(
            f"the reference has {len(names)} types with transcripts of the {len(shared.names)} shared genes; at"
            " least 2 are needed"
        )
    expressed = np.flatnonzero(np.asarray(profiles.X.sum(axis=0)).ravel() > 0)
    profiles, matrix = profiles[:, expressed].copy(), section.X[:, shared.section][:, expressed]
    known = np.asarray(matrix.sum(axis=1)).ravel() > 0
    if not known.any():
        raise InputError("no cell of the section has a transcript of a gene that the reference expresses")
    p = uniform(section.n_obs, len(names))
    tiles = random_tiles(np.flatnonzero(known), options.tile, options.seed)
    for done, rows in enumerate(tiles, start=1):
        p[rows] = _transport_tile(tacco, matrix[rows], profiles, options)
        if progress:
            progress(done / len(tiles))
    facts = {
        "method": "tacco",
        "version": version("tacco"),
        "options": options.model_dump(mode="json"),
        "reference": dict(reference.uns.get("reference", {})),
        "tiles": len(tiles),
        "cells_without_genes": int((~known).sum()),
    }
    return Annotation(p, tuple(names), known, facts | shared.facts)


def _profiles(reference: anndata.AnnData, column: str, shared: SharedGenes) -> anndata.AnnData:
    """The reference's cells with a transcript of the shared genes, these genes, and their types in ``obs[KEY]``."""
    import pandas as pd
    from anndata import AnnData

    matrix = reference.X[:, shared.reference]
    expressed = np.asarray(matrix.sum(axis=1)).ravel() > 0
    kinds = pd.Categorical(reference.obs[column].astype(str).to_numpy()[expressed])
    obs = pd.DataFrame({KEY: kinds}, index=[f"r{i}" for i in range(len(kinds))])
    return AnnData(matrix[expressed], obs=obs, var=pd.DataFrame(index=pd.Index(shared.names)))


def _transport_tile(
    tacco: Any, matrix: Any, profiles: anndata.AnnData, options: TransportOptions
) -> NDArray[np.float32]:
    """One tile: (n, G) counts -> (n, K)."""
    import pandas as pd
    from anndata import AnnData

    kinds = profiles.obs[KEY].cat
    prior = pd.Series(1.0, index=kinds.categories)  # the same for every tile
    if options.prior == "reference":  # by transcripts, as TACCO counts
        transcripts = np.asarray(profiles.X.sum(axis=1)).ravel().astype(np.float64)
        prior[:] = np.bincount(kinds.codes, transcripts, len(prior))
    obs = pd.DataFrame(index=[f"c{i}" for i in range(matrix.shape[0])])
    result = tacco.tl.annotate(
        AnnData(matrix, obs=obs, var=profiles.var[[]].copy()),
        profiles.copy(),
        KEY,
        method="OT",
        epsilon=options.epsilon,
        lamb=options.prior_strength,
        annotation_prior=prior,
        multi_center=None if options.multi_center == 1 else options.multi_center,
        bisections=options.bisections,
        platform_iterations=options.platform_iterations,
        assume_valid_counts=True,
        remove_constant_genes=False,  # what is constant differs between tiles
        verbose=0,
    )
    # A type all of whose cells TACCO dropped has no column; a cell it dropped is not a number.
    p = np.maximum(np.nan_to_num(result.reindex(columns=kinds.categories, fill_value=0.0).to_numpy(np.float64)), 0)
    total = p.sum(axis=1, keepdims=True)
    return np.where(total > 0, p / np.maximum(total, 1e-300), 1 / len(prior)).astype(np.float32)


def random_tiles(rows: NDArray[np.int64], size: int, seed: int) -> list[NDArray[np.int64]]:
    """Share rows out at random among tiles of nearly equal length, about ``size``; within a tile they are in order."""
    count = max(1, math.ceil(len(rows) / size))
    shuffled = np.random.default_rng(seed).permutation(rows) if count > 1 else rows
    return [np.sort(part) for part in np.array_split(shuffled, count)]
