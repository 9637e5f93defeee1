"""The single-cell reference: whole counts and types, and its genes matched to those of a section.

Transfer compares counts with counts. Where whole counts are looked for, in this order: ``X``, the layers ``counts`` and
``raw_counts``, ``raw``. Files that keep only normalised logarithms are refused, unless the user asks for an
approximation of the counts (``allow_normalised``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError, near
from celldetr.spatial.readers.anndata_file import load
from celldetr.spatial.readers.common import csr_counts, whole

if TYPE_CHECKING:
    import anndata

LAYERS = ("counts", "raw_counts")
SYMBOL_COLUMNS = ("gene_ids", "gene_id", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "feature_name")
LOOKED_AT = 10_000  # values that decide whether a matrix holds logarithms
LARGEST_LOG = 30.0  # expm1 of more is no count
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
    """Read a reference.

    Args:
        path: an h5ad file.
        column: of ``obs``: the types. Cells without a type are left out.
        counts: where whole counts are: ``auto``, ``X``, ``raw``, or the name of a layer.
        allow_normalised: where there are none, undo ``log1p`` and divide each cell by its smallest value, which is one
            transcript in almost every cell. It is an approximation: cells without a gene of one transcript come out
            too small, and what was scaled, or regressed out, cannot be undone.
        min_cells: types with fewer cells are reported in ``uns["reference"]["rare"]``.
        keep_rare: whether they stay.

    Returns:
        ``X`` CSR float32 of whole counts, ``obs[column]`` categories (text), ``var`` as in the file;
        ``uns["reference"]`` says where counts were found, how many cells each type has, and which types are rare.

    Raises:
        InputError: no such file, not h5ad, no such column (near names are listed), no whole counts, or no cell left.
    """
    import pandas as pd
    from anndata import AnnData

    data = load(path)
    if column not in data.obs:
        raise InputError(f"{path}: obs has no column {column!r}; {near(column, map(str, data.obs.columns))}")
    labels = data.obs[column]
    typed = labels.notna().to_numpy() & (labels.astype(str).str.strip() != "").to_numpy()
    matrix, names, var, found = _find_counts(data, path, counts, allow_normalised)
    kind = labels[typed].astype(str).astype("category")
    sizes = kind.value_counts()
    rare = sorted(str(name) for name, n in sizes.items() if n < min_cells)
    keep = np.flatnonzero(typed)
    if rare and not keep_rare:
        stay = ~kind.isin(rare).to_numpy()
        keep, kind = keep[stay], kind[stay].cat.remove_unused_categories()
    if not len(keep):
        raise InputError(
            f"{path}: no cell with a type in {column!r} is left of {data.n_obs}; lower min_cells={min_cells}"
        )
    out = AnnData(
        matrix[keep],
        obs=pd.DataFrame({column: kind.to_numpy()}, index=data.obs_names[keep].astype(str)),
        var=var.set_axis(names, axis=0),
    )
    out.obs[column] = pd.Categorical(kind.to_numpy(), categories=list(kind.cat.categories))
    out.var_names_make_unique()
    out.uns["reference"] = {
        "file": path.name,
        "column": column,
        "counts": found,
        "cells": {str(name): int(n) for name, n in sizes.sort_index().items()},
        "without_type": int((~typed).sum()),
        "rare": rare,
        "rare_kept": keep_rare,
    }
    return out


def _find_counts(data: Any, path: Path, counts: str, allow_normalised: bool) -> tuple[Any, Any, Any, str]:
    """Matrix (CSR float32), names of its genes, their table, and where it was."""
    places: dict[str, tuple[Any, Any]] = {"X": (data.X, data.var)}
    places |= {name: (data.layers[name], data.var) for name in data.layers}
    if data.raw is not None:
        places["raw"] = (data.raw.X, data.raw.var)
    places = {name: place for name, place in places.items() if place[0] is not None}
    if counts != "auto" and counts not in places:
        raise InputError(f"{path}: counts={counts!r}: no such matrix; {near(counts, [*places, 'auto'])}")
    order = ["X", *LAYERS, "raw"] if counts == "auto" else [counts]
    for name in order:
        if name in places and whole(places[name][0]) and _values(places[name][0]).any():
            matrix, var = places[name]
            return csr_counts(matrix), var.index.astype(str), var.copy(), name
    if allow_normalised:
        for name in reversed(order):  # raw is what others were made of
            if name in places and _is_logarithm(places[name][0]):
                matrix, var = places[name]
                return _undo_logarithm(matrix), var.index.astype(str), var.copy(), f"{name}, normalisation undone"
    raise InputError(
        f"{path}: holds no whole counts in {', '.join(name for name in order if name in places)}; save the raw counts"
        " as X or as layer 'counts', name the layer that has them (counts), or allow_normalised to undo log1p"
        " approximately"
    )


def _values(matrix: Any) -> NDArray[Any]:
    data = matrix.data if hasattr(matrix, "indptr") else np.asarray(matrix)
    flat = np.asarray(data).ravel()
    return flat[:: max(1, len(flat) // LOOKED_AT)]


def _is_logarithm(matrix: Any) -> bool:
    values = _values(matrix)
    return bool(len(values) and np.isfinite(values).all() and values.min() >= 0 and 0 < values.max() < LARGEST_LOG)


def _undo_logarithm(matrix: Any) -> Any:
    out = csr_counts(matrix).astype(np.float64)
    out.data = np.expm1(out.data)
    filled = np.flatnonzero(np.diff(out.indptr))
    smallest = np.minimum.reduceat(out.data, out.indptr[:-1][filled]) if len(filled) else np.empty(0)
    scale = np.ones(out.shape[0])
    scale[filled] = 1 / smallest
    out.data = np.round(out.data * np.repeat(scale, np.diff(out.indptr)))
    return out.astype(np.float32)


@dataclass(frozen=True)
class Shared:
    """Genes that a section and a reference both have.

    Attributes:
        section, reference: (S,) columns of the two matrices, pairwise the same gene, each once.
        key: what of the reference matched: ``var_names`` or a column of ``var``.
        names: (S,) as the section has them.
        missing: names of the section's genes that the reference lacks.
    """

    section: NDArray[np.int64]
    reference: NDArray[np.int64]
    key: str
    names: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What a report says of it. JSON-able."""
        return {
            "shared_genes": len(self.names),
            "section_genes": len(self.names) + len(self.missing),
            "matched_by": self.key,
            "missing_genes": list(self.missing),
        }


def shared_genes(section: anndata.AnnData, reference: anndata.AnnData, min_genes: int | None = None) -> Shared:
    """Match genes by name; where names disagree (symbols against Ensembl ids), by columns of either's ``var``.

    Args:
        section, reference: cells by genes.
        min_genes: fewest that must match; None: 50, or a tenth of the section's where that is fewer.

    Raises:
        InputError: fewer match; the message gives names of both, and says so where they differ by case only, as mouse
            genes and human genes do.
    """
    least = min(MIN_GENES, -(-section.n_vars // 10)) if min_genes is None else min_genes
    best: tuple[str, NDArray[np.int64], NDArray[np.int64]] | None = None
    theirs = _keys(reference)
    for mine, names in _keys(section).items():
        for key, known in theirs.items():
            left, right = _match(names, known)
            if best is None or len(left) > len(best[1]):
                best = (key if mine == "var_names" else f"{key} (section: {mine})", left, right)
        if best is not None and len(best[1]) >= max(least, section.n_vars // 2):
            break  # ids of the section are only looked at where its names find little
    assert best is not None  # var_names are always there
    key, left, right = best
    if len(left) < max(least, 1):
        raise InputError(_no_overlap(section, reference, len(left), max(least, 1)))
    names = [str(name) for name in section.var_names]
    found = set(left.tolist())
    return Shared(
        left,
        right,
        key,
        tuple(names[i] for i in left),
        tuple(name for i, name in enumerate(names) if i not in found),
    )


def _keys(data: Any) -> dict[str, list[str]]:
    keys = {"var_names": [str(name) for name in data.var_names]}
    for column in SYMBOL_COLUMNS:
        if column in data.var:
            keys[column] = [str(name) for name in data.var[column]]
    # ENSG00000012048.23 and ENSG00000012048 are one gene.
    return {
        key: [name.split(".")[0] if name.startswith("ENS") else name for name in names] for key, names in keys.items()
    }


def _match(mine: Sequence[str], theirs: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of columns with one name; of a name that is there twice, the first."""
    where: dict[str, int] = {}
    for index, name in enumerate(theirs):
        where.setdefault(name, index)
    pairs: dict[str, tuple[int, int]] = {}
    for index, name in enumerate(mine):
        if name in where and name not in pairs:
            pairs[name] = (index, where[name])
    table = np.array(list(pairs.values()), dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _no_overlap(section: Any, reference: Any, found: int, least: int) -> str:
    mine, theirs = _keys(section), _keys(reference)
    text = (
        f"the section and the reference share {found} genes, fewer than {least}: the section has"
        f" {', '.join(mine['var_names'][:3])}, the reference {', '.join(theirs['var_names'][:3])}"
    )
    upper = {name.upper() for name in theirs["var_names"]}
    alike = sum(name.upper() in upper for name in mine["var_names"])
    if alike >= max(least, 2 * found + 1):
        return f"{text}; {alike} agree but for upper and lower case: is one of them of mouse, the other human?"
    if mine["var_names"][0].startswith("ENS") != theirs["var_names"][0].startswith("ENS"):
        return f"{text}; put gene symbols into a column of the reference's var, such as 'feature_name'"
    return f"{text}; use a reference of the same organism whose genes have the section's names"
