"""Types by a CellTypist classifier (Dominguez Conde et al., Science 2022), trained on a reference.

CellTypist's own model files are pickles, which run code when they are read: none is opened, nor downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from celldetr.errors import InputError
from celldetr.spatial.annotate.annotation import Annotation, uniform
from celldetr.spatial.annotate.reference import shared_genes

if TYPE_CHECKING:
    import anndata

TARGET = 1e4  # transcripts a cell is scaled to: what CellTypist expects, before log1p
ITERATIONS = 200  # of training, at most


def classify(section: anndata.AnnData, reference: anndata.AnnData, column: str) -> Annotation:
    """Classify cells; those without a transcript of a shared gene are unknown.

    CellTypist's probabilities are of each type against all others; rows are divided by their sums.

    Raises:
        InputError: CellTypist is not installed, or too old for the scikit-learn that is; the genes hardly overlap; no
            cell has a transcript of them.
    """
    try:
        import celltypist
    except ImportError as error:
        raise InputError(f"CellTypist cannot be imported ({error}); pip install celltypist") from None
    shared = shared_genes(section, reference)
    training = _normalised(reference.X[:, shared.reference], shared.names)
    training.obs[column] = reference.obs[column].astype(str).to_numpy()
    training = training[np.asarray(training.X.sum(axis=1)).ravel() > 0].copy()
    try:
        model = celltypist.train(training, labels=column, check_expression=False, max_iter=ITERATIONS, n_jobs=1)
    except TypeError as error:  # it passes arguments that newer versions of scikit-learn have dropped
        raise InputError(
            f"CellTypist cannot train with this scikit-learn ({error}); pip install 'scikit-learn<1.7'"
        ) from None
    cells = _normalised(section.X[:, shared.section], shared.names)
    known = np.asarray(cells.X.sum(axis=1)).ravel() > 0
    if not known.any():
        raise InputError("no cell of the section has a transcript of a gene that the classifier knows")
    result = celltypist.annotate(cells[known].copy(), model=model, majority_voting=False).probability_matrix
    names = tuple(str(name) for name in result.columns)
    p = uniform(section.n_obs, len(names))
    values = np.maximum(result.to_numpy(dtype=np.float64), 1e-12)
    p[known] = (values / values.sum(axis=1, keepdims=True)).astype(np.float32)
    facts = {
        "method": "celltypist",
        "version": getattr(celltypist, "__version__", "unknown"),
        "model": "trained on the reference",
        "cells_without_genes": int((~known).sum()),
    }
    return Annotation(p, names, known, facts | shared.facts)


def _normalised(matrix: Any, genes: Sequence[str]) -> anndata.AnnData:
    """Counts -> log1p of counts scaled to ``TARGET`` a cell; cells without any stay zero."""
    import pandas as pd
    import scanpy
    from anndata import AnnData

    index = [f"c{i}" for i in range(matrix.shape[0])]
    cells = AnnData(matrix.astype(np.float64), obs=pd.DataFrame(index=index), var=pd.DataFrame(index=list(genes)))
    scanpy.pp.normalize_total(cells, target_sum=TARGET)
    scanpy.pp.log1p(cells)
    return cells
