"""Mean expression by type, of the section and of the reference: evidence that transferred types are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.spatial.annotate.annotation import Annotation
from celldetr.spatial.annotate.reference import shared_genes

if TYPE_CHECKING:
    import anndata
    import pandas as pd

FEWEST_CELLS = 10  # of a type in the section: a mean of fewer looks like no type
GENE = "g: "  # begins the name of a gene's column


def expression_table(
    section: anndata.AnnData, annotation: Annotation, reference: anndata.AnnData, column: str
) -> pd.DataFrame:
    """Mean expression of the shared genes by type: a row a type and ``side``, a column "g: NAME" a gene."""
    import pandas as pd

    shared = shared_genes(section, reference)
    kinds = np.array(annotation.types, dtype=object)[annotation.probabilities.argmax(axis=1)]
    kinds[~annotation.known] = ""
    rare = [name for name in annotation.types if (kinds == name).sum() < FEWEST_CELLS]
    kinds[np.isin(kinds.astype(str), rare)] = ""
    types = list(annotation.types)
    columns = [f"{GENE}{name}" for name in shared.names]
    of_section = mean_expression(section.X[:, shared.section], kinds, types)
    of_reference = mean_expression(
        reference.X[:, shared.reference], reference.obs[column].astype(str).to_numpy(), types
    )
    table = pd.DataFrame(np.vstack([of_section, of_reference]), columns=columns)
    return table.assign(side=["section"] * len(types) + ["reference"] * len(types), type=types * 2)


def split_expression(
    table: pd.DataFrame,
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str], list[str]]:
    """(K, G) of the section and of the reference, names of genes and types, from an ``expression_table``."""
    genes = [str(name) for name in table.columns if str(name).startswith(GENE)]
    section, reference = (table[table["side"] == side] for side in ("section", "reference"))
    return (
        section[genes].to_numpy(dtype=np.float64),
        reference[genes].to_numpy(dtype=np.float64),
        [name.removeprefix(GENE) for name in genes],
        section["type"].tolist(),
    )


def agreement(table: pd.DataFrame) -> dict[str, float]:
    """Correlation over genes between a type's cells in the section and in the reference, for the types that are there.

    Low where the reference lacks what the section has: cells get some type of it all the same.
    """
    section, reference, _, names = split_expression(table)
    there = np.flatnonzero(~np.isnan(section).all(axis=1))
    diagonal = np.diag(correlations(section[there], reference[there]))
    return {names[k]: round(float(r), 3) for k, r in zip(there.tolist(), diagonal, strict=True)}


def mean_expression(counts: Any, kinds: NDArray[np.object_], names: Sequence[str]) -> NDArray[np.float64]:
    """Mean of ``log1p`` of counts a thousand transcripts, over cells of each type: (N, G) and (N,) types -> (K, G).

    NaN where there is no cell of a type.
    """
    from scipy import sparse

    total = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    logs = (sparse.diags(1000 / np.maximum(total, 1)) @ counts).tocsr().log1p()
    member = sparse.csr_matrix(np.array([kinds == name for name in names]))
    size = np.asarray(member.sum(axis=1))
    return np.asarray((member @ logs).todense()) / np.where(size > 0, size, np.nan)


def correlations(section: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, K) Pearson's r over genes between types of the section (rows) and of the reference (columns).

    What all types have in common is taken off first: means over the types of each.
    """

    def centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        values = np.nan_to_num(values)
        values = values - values.mean(axis=0)
        values = values - values.mean(axis=1, keepdims=True)
        return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)

    return centred(section) @ centred(reference).T
