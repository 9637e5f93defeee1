"""Types by a CellTypist classifier (Dominguez Conde et al., Science 2022): a model file, or a reference to train on.

CellTypist's model files are pickles, which run code when they are read: a file is only opened when the user says that
it is trusted, and none is ever downloaded.
"""

from __future__ import annotations

import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from celldetr.errors import InputError
from celldetr.spatial.annotate.annotation import Annotation, Progress, uniform
from celldetr.spatial.reference import MIN_GENES, shared_genes
from celldetr.untrusted import is_file

if TYPE_CHECKING:
    import anndata

TARGET = 1e4  # transcripts a cell is scaled to: what CellTypist expects, before log1p


class Classifier:
    """CellTypist on the section's cells.

    Attributes:
        model: a model file; None: one is trained on the reference.
        trust_pickle: whether ``model`` may be opened, although that runs code in it.
        reference, column: whole counts in ``X``, types in ``obs[column]``; for training where there is no ``model``.
        min_genes: that must be shared; None: 50, or a tenth of the section's.
        max_iterations: of training.
    """

    def __init__(
        self,
        model: Path | None = None,
        *,
        trust_pickle: bool = False,
        reference: anndata.AnnData | None = None,
        column: str = "",
        min_genes: int | None = None,
        max_iterations: int = 200,
    ) -> None:
        self.model, self.trust_pickle, self.reference, self.column = model, trust_pickle, reference, column
        self.min_genes, self.max_iterations = min_genes, max_iterations

    def annotate(self, section: anndata.AnnData, progress: Progress | None = None) -> Annotation:
        """Classify cells; those without a transcript of a shared gene are unknown.

        CellTypist's probabilities are of each type against all others; rows are divided by their sums.

        Raises:
            InputError: CellTypist is not installed, or too old for the scikit-learn that is; neither a model nor a
                reference is given; the model may not be opened or cannot be read; the genes hardly overlap; no cell
                has a transcript of them.
        """
        start = time.perf_counter()
        self._check()
        try:
            import celltypist
        except ImportError as error:
            raise InputError(f"CellTypist cannot be imported ({error}); pip install celltypist") from None
        facts: dict[str, Any] = {"method": "celltypist", "version": _version()}
        if self.model is not None:
            model = self._load(celltypist)
            known_genes = {str(gene) for gene in model.features}
            columns = np.array([i for i, name in enumerate(section.var_names) if str(name) in known_genes], dtype=int)
            least = self.min_genes or min(MIN_GENES, -(-section.n_vars // 10))
            if len(columns) < least:
                raise InputError(
                    f"{self.model}: knows {len(columns)} of the section's {section.n_vars} genes, fewer than {least}:"
                    f" the section has {', '.join(section.var_names[:3])}, the model"
                    f" {', '.join(sorted(known_genes)[:3])}"
                )
            facts |= {"model": self.model.name, "shared_genes": len(columns), "section_genes": section.n_vars}
            genes = [str(section.var_names[i]) for i in columns]
        else:
            assert self.reference is not None  # _check
            shared = shared_genes(section, self.reference, self.min_genes)
            columns, genes = shared.section, list(shared.names)
            training = _normalised(self.reference.X[:, shared.reference], genes)
            training.obs[self.column] = self.reference.obs[self.column].astype(str).to_numpy()
            training = training[np.asarray(training.X.sum(axis=1)).ravel() > 0].copy()
            try:
                model = celltypist.train(
                    training, labels=self.column, check_expression=False, max_iter=self.max_iterations, n_jobs=1
                )
            except TypeError as error:  # it passes arguments that newer versions of scikit-learn have dropped
                raise InputError(
                    f"CellTypist cannot train with this scikit-learn ({error}); pip install 'scikit-learn<1.7', or give"
                    " a model that is trained"
                ) from None
            facts |= {"model": "trained on the reference"} | shared.facts
        if progress:
            progress(0.5)
        cells = _normalised(section.X[:, columns], genes)
        known = np.asarray(cells.X.sum(axis=1)).ravel() > 0
        if not known.any():
            raise InputError("no cell of the section has a transcript of a gene that the classifier knows")
        found = celltypist.annotate(cells[known].copy(), model=model, majority_voting=False).probability_matrix
        names = tuple(str(name) for name in found.columns)
        p = uniform(section.n_obs, len(names))
        values = np.maximum(found.to_numpy(dtype=np.float64), 1e-12)
        p[known] = (values / values.sum(axis=1, keepdims=True)).astype(np.float32)
        if progress:
            progress(1.0)
        facts |= {"cells_without_genes": int((~known).sum()), "seconds": round(time.perf_counter() - start, 1)}
        return Annotation(p, names, known, facts)

    def _check(self) -> None:
        if self.model is None:
            if self.reference is None or not self.column:
                raise InputError("celltypist: expected a model file, or a reference and the column of its types")
        elif not is_file(self.model):
            raise InputError(f"{self.model}: no such file; expected a CellTypist model (.pkl)")
        elif not self.trust_pickle:
            raise InputError(
                f"{self.model}: CellTypist models are pickles, which can run any code when opened; pass trust_pickle if"
                " you know where it is from, or train on a reference instead"
            )

    def _load(self, celltypist: Any) -> Any:
        try:
            return celltypist.models.Model.load(str(self.model))
        except Exception as error:  # a pickle can fail in any way
            message = f"{self.model}: not readable as a CellTypist model ({type(error).__name__}: {error})"
            raise InputError(message) from None


def _normalised(matrix: Any, genes: list[str]) -> anndata.AnnData:
    """Counts -> log1p of counts scaled to ``TARGET`` a cell; cells without any stay zero."""
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix, diags

    counts = csr_matrix(matrix, dtype=np.float64)
    total = np.asarray(counts.sum(axis=1)).ravel()
    scaled = csr_matrix(diags(TARGET / np.maximum(total, 1)) @ counts)
    scaled.data = np.log1p(scaled.data)
    index = [f"c{i}" for i in range(scaled.shape[0])]
    return AnnData(scaled, obs=pd.DataFrame(index=index), var=pd.DataFrame(index=pd.Index(genes)))


def _version() -> str:
    try:
        return version("celltypist")
    except PackageNotFoundError:
        return "unknown"
