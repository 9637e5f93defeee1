"""Single-cell reference: whole counts with a type for each cell, and its genes matched to those of a section."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError, near
from celldetr.spatial.counts import find_counts, undo_log_approximately
from celldetr.spatial.readers.anndata_file import load

if TYPE_CHECKING:
    import anndata
    import pandas as pd

SYMBOL_COLUMNS = ("gene_ids", "gene_id", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "feature_name")
MIN_GENES = 50
FEW = 10  # cells of a type below which its profile is doubtful


def read_reference(
    path: Path,
    column: str,
    counts: str = "auto",
    *,
    allow_normalised: bool = False,
    min_cells: int = FEW,
    keep_rare: bool = True,
) -> anndata.AnnData:
    """Read a reference: ``X`` CSR float32 of whole counts, ``obs[column]`` categories (text), ``var`` as in the file.

    Args:
        path: an h5ad file.
        column: of ``obs``: the types. Cells without a type are left out.
        counts: where whole counts are: ``auto``, ``X``, ``raw``, or the name of a layer.
        allow_normalised: where there are none, take ``undo_log_approximately``.
        min_cells: types with fewer cells are reported in ``uns["reference"]["rare"]``.
        keep_rare: whether they stay.
    """
    import pandas as pd
    from anndata import AnnData

    data = load(path)
    if column not in data.obs:
        raise InputError(f"{path}: obs has no column {column!r}; {near(column, map(str, data.obs.columns))}")
    undo = undo_log_approximately if allow_normalised else None
    matrix, var, place = find_counts(
        data, path, counts, undo, ", or set `allow_normalised=True` to undo log1p approximately"
    )
    kinds = data.obs[column].astype(str).where(data.obs[column].notna(), "").str.strip()
    sizes = kinds[kinds != ""].value_counts()
    rare = sorted(sizes.index[sizes < min_cells])
    rows = np.flatnonzero(((kinds != "") & (keep_rare | ~kinds.isin(rare))).to_numpy())
    if not len(rows):
        raise InputError(
            f"{path}: no cell with a type in {column!r} is left of {data.n_obs}; lower `min_cells={min_cells}`"
        )
    out = AnnData(
        matrix[rows],
        obs=pd.DataFrame({column: pd.Categorical(kinds.iloc[rows])}, index=data.obs_names[rows].astype(str)),
        var=var.set_axis(var.index.astype(str), axis=0),
    )
    out.var_names_make_unique()
    out.uns["reference"] = {
        "file": path.name,
        "column": column,
        "counts": place,
        "cells": {str(name): int(n) for name, n in sizes.sort_index().items()},
        "without_type": int((kinds == "").sum()),
        "rare": rare,
        "rare_kept": keep_rare,
    }
    return out


@dataclass(frozen=True)
class SharedGenes:
    """Genes that a section and a reference both have."""

    section: NDArray[np.int64]  # (S,) columns of its matrix
    reference: NDArray[np.int64]  # (S,) columns of its matrix, pairwise the same gene
    key: str  # what of the reference matched: ``var_names`` or a column of ``var``
    names: tuple[str, ...]  # (S,) as the section has them
    missing: tuple[str, ...]  # genes of the section that the reference lacks

    @property
    def facts(self) -> dict[str, Any]:
        """For the report. JSON-able."""
        return {
            "shared_genes": len(self.names),
            "section_genes": len(self.names) + len(self.missing),
            "matched_by": self.key,
            "missing_genes": list(self.missing),
        }


def shared_genes(section: anndata.AnnData, reference: anndata.AnnData, min_genes: int | None = None) -> SharedGenes:
    """Match genes by name; where names disagree (symbols against Ensembl ids), by columns of either's ``var``.

    Raises:
        InputError: fewer than ``min_genes`` match (None: 50, or a tenth of the section's where that is fewer).
    """
    least = max(1, min(MIN_GENES, -(-section.n_vars // 10)) if min_genes is None else min_genes)
    best = ("", np.zeros(0, np.int64), np.zeros(0, np.int64))
    for key, names in _gene_keys(section).items():
        for reference_key, known in _gene_keys(reference).items():
            left, right = _match(names, known)
            if len(left) > len(best[1]):
                best = (reference_key if key == "var_names" else f"{reference_key} (section: {key})", left, right)
        if len(best[1]) >= max(least, section.n_vars // 2):
            break  # ids of the section are only looked at where its names match little
    matched_by, left, right = best
    if len(left) < least:
        raise InputError(_no_overlap(section, reference, len(left), least))
    names = section.var_names.astype(str)
    return SharedGenes(left, right, matched_by, tuple(names[left]), tuple(names.delete(left)))


def _gene_keys(data: anndata.AnnData) -> dict[str, pd.Index]:
    """Names of the genes, by where they are; ENSG00000012048.23 and ENSG00000012048 are one gene."""
    import pandas as pd

    columns = [column for column in SYMBOL_COLUMNS if column in data.var]
    keys = {"var_names": data.var_names} | {column: pd.Index(data.var[column]) for column in columns}
    return {key: names.astype(str).str.replace(r"^(ENS[^.]*)\..*", r"\1", regex=True) for key, names in keys.items()}


def _match(names: pd.Index, known: pd.Index) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of positions with one name; of a name that is there twice, the first."""
    first = np.flatnonzero(~known.duplicated())
    at = known[first].get_indexer(names)
    left = np.flatnonzero((at >= 0) & ~names.duplicated())
    return left, first[at[left]]


def _no_overlap(section: anndata.AnnData, reference: anndata.AnnData, shared: int, least: int) -> str:
    ours, theirs = (_gene_keys(data)["var_names"] for data in (section, reference))
    text = (
        f"the section and the reference share {shared} genes, fewer than {least}: the section has"
        f" {', '.join(ours[:3])}, the reference {', '.join(theirs[:3])}"
    )
    alike = ours.str.upper().isin(theirs.str.upper()).sum()
    if alike >= max(least, 2 * shared + 1):
        return f"{text}; {alike} agree but for upper and lower case: is one of them of mouse, the other human?"
    if ours[0].startswith("ENS") != theirs[0].startswith("ENS"):
        return f"{text}; put gene symbols into a column of the reference's var, such as 'feature_name'"
    return f"{text}; use a reference of the same organism whose genes have the section's names"
