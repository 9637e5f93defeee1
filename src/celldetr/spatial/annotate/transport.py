"""Types by optimal transport from a single-cell reference: TACCO (Mages et al., Nature Biotechnology 2023).

Cells of the section are transported onto the profiles of the reference's types. TACCO's own defaults are for spots that
mix cells, in a tissue composed like the reference. Cells of an imaging instrument are one type each, few transcripts,
and a section is composed as it is, so the defaults here differ; docs/how-to/spatial.md has the measurements.

Large sections are cut into tiles of cells drawn at random, so that each has the section's composition, and transported
one after the other with the same prior: memory follows the tile, not the section.
"""

from __future__ import annotations

import math
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from celldetr.config import Config, Count, Positive
from celldetr.errors import InputError, install
from celldetr.spatial.annotate.annotation import Annotation, Progress, uniform
from celldetr.spatial.annotate.reference import shared_genes

if TYPE_CHECKING:
    import anndata
    import pandas as pd

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


class Transport:
    """Transfer types from a reference.

    Attributes:
        reference: whole counts in ``X``, types in ``obs[column]``, as ``reference.read_reference`` gives it.
        column: of the types.
        options: the defaults where None.
    """

    def __init__(self, reference: anndata.AnnData, column: str, options: TransportOptions | None = None) -> None:
        self.reference, self.column, self.options = reference, column, options or TransportOptions()

    def annotate(self, section: anndata.AnnData, progress: Progress | None = None) -> Annotation:
        """Transport the section's cells.

        Cells without a transcript of a shared gene are unknown, and counted in ``facts["cells_without_genes"]``.

        Raises:
            InputError: TACCO is not installed, the genes hardly overlap, the reference has fewer than two types with
                transcripts of them, or no cell of the section has one.
        """
        start = time.perf_counter()
        try:
            import tacco
        except ImportError as error:
            raise InputError(f"TACCO cannot be imported ({error}); {install('spatial')}") from None
        shared = shared_genes(section, self.reference, self.options.min_genes)
        reference, names = self._profiles(shared.reference, shared.names)
        if len(names) < 2:
            raise InputError(
                f"the reference has {len(names)} types with transcripts of the {len(shared.names)} shared genes; at"
                " least 2 are needed"
            )
        matrix = _float_csr(section.X[:, shared.section])
        expressed = np.flatnonzero(np.asarray(reference.X.sum(axis=0)).ravel() > 0)
        reference, matrix = reference[:, expressed].copy(), matrix[:, expressed]
        known = np.asarray(matrix.sum(axis=1)).ravel() > 0
        if not known.any():
            raise InputError("no cell of the section has a transcript of a gene that the reference expresses")
        p = uniform(section.n_obs, len(names))
        prior = self._prior(reference, names)
        tiles = random_tiles(np.flatnonzero(known), self.options.tile, self.options.seed)
        for done, rows in enumerate(tiles, start=1):
            p[rows] = self._transport(tacco, matrix[rows], reference, names, prior)
            if progress:
                progress(done / len(tiles))
        facts = {
            "method": "tacco",
            "version": version("tacco"),
            "options": self.options.model_dump(mode="json"),
            "reference": dict(self.reference.uns.get("reference", {})),
            "tiles": len(tiles),
            "cells_without_genes": int((~known).sum()),
            "seconds": round(time.perf_counter() - start, 1),
        }
        return Annotation(p, tuple(names), known, facts | shared.facts)

    def _profiles(self, columns: NDArray[np.int64], genes: tuple[str, ...]) -> tuple[anndata.AnnData, list[str]]:
        """The reference's cells with a transcript of the shared genes, these genes, and the types that are left."""
        import pandas as pd
        from anndata import AnnData

        matrix = _float_csr(self.reference.X[:, columns])
        keep = np.asarray(matrix.sum(axis=1)).ravel() > 0
        kinds = pd.Categorical(self.reference.obs[self.column].astype(str).to_numpy()[keep])
        obs = pd.DataFrame({KEY: kinds}, index=[f"r{i}" for i in range(int(keep.sum()))])
        out = AnnData(matrix[keep], obs=obs, var=pd.DataFrame(index=pd.Index(genes)))
        return out, [str(name) for name in kinds.categories]

    def _prior(self, reference: anndata.AnnData, names: list[str]) -> pd.Series:
        """The same for every tile: by transcripts, as TACCO counts."""
        import pandas as pd

        kinds = reference.obs[KEY].cat.categories
        if self.options.prior == "uniform":
            return pd.Series(1.0, index=kinds)
        weight = np.asarray(reference.X.sum(axis=1)).ravel().astype(np.float64)
        return pd.Series(np.bincount(reference.obs[KEY].cat.codes, weight, len(names)), index=kinds)

    def _transport(
        self, tacco: Any, matrix: Any, reference: anndata.AnnData, names: list[str], prior: pd.Series
    ) -> NDArray[np.float32]:
        """One tile: (n, G) counts -> (n, K)."""
        import pandas as pd
        from anndata import AnnData

        cells = AnnData(
            matrix, obs=pd.DataFrame(index=[f"c{i}" for i in range(matrix.shape[0])]), var=reference.var[[]].copy()
        )
        result = tacco.tl.annotate(
            cells,
            reference.copy(),
            KEY,
            method="OT",
            epsilon=self.options.epsilon,
            lamb=self.options.prior_strength,
            annotation_prior=prior,
            multi_center=None if self.options.multi_center == 1 else self.options.multi_center,
            bisections=self.options.bisections,
            platform_iterations=self.options.platform_iterations,
            assume_valid_counts=True,
            remove_constant_genes=False,  # what is constant differs between tiles
            verbose=0,
        )
        result.columns = [str(name) for name in result.columns]
        # A type all of whose cells TACCO dropped has no column; a cell it dropped has no row.
        p = result.reindex(columns=names, fill_value=0.0).to_numpy(dtype=np.float64)
        p = np.maximum(np.nan_to_num(p, nan=0.0), 0)
        total = p.sum(axis=1, keepdims=True)
        return np.where(total > 0, p / np.maximum(total, 1e-300), 1 / len(names)).astype(np.float32)


def random_tiles(rows: NDArray[np.int64], size: int, seed: int) -> list[NDArray[np.int64]]:
    """Share rows out at random among tiles of nearly equal length, about ``size``; within a tile they are in order."""
    count = max(1, math.ceil(len(rows) / size))
    shuffled = np.random.default_rng(seed).permutation(rows) if count > 1 else rows
    return [np.sort(part) for part in np.array_split(shuffled, count)]


def _float_csr(matrix: Any) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix(matrix, dtype=np.float32)
