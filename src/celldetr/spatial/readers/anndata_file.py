"""An AnnData file (.h5ad) with whole counts and with coordinates in ``obs`` or ``obsm``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.spatial.affine import scaling
from celldetr.spatial.counts import find_counts, undo_log_provably
from celldetr.spatial.readers.common import (
    AMBIGUOUS,
    ReadOptions,
    as_text,
    check_ids,
    make_cells,
    places,
    reading,
    split_genes,
)
from celldetr.spatial.readers.hest import pixel_size, refuse_spots
from celldetr.spatial.section import CELL_AREA, NUCLEUS_AREA, Section, X, Y

if TYPE_CHECKING:
    import anndata
    import pandas as pd

# Columns of obs that coordinates usually have, and their unit.
COLUMNS = {
    (X, Y): "um",
    ("x_centroid", "y_centroid"): "um",
    ("pxl_col_in_fullres", "pxl_row_in_fullres"): "px",
    AMBIGUOUS: "px",
}
_SYMBOLS = ("gene_symbol", "gene_symbols", "symbol", "gene_name", "feature_name", "gene_names")
_CONTROLS = ("NegControl", "BLANK_", "UnassignedCodeword_", "DeprecatedCodeword_", "antisense_", "Intergenic_Region_")


def load(path: Path) -> anndata.AnnData:
    """Read the file."""
    import anndata

    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old versions of the format, which are read all the same
        return anndata.read_h5ad(path)


def read_anndata(data: anndata.AnnData, path: Path, name: str, options: ReadOptions, *, is_hest: bool) -> Section:
    """A section from the content of an AnnData file, which may be a sample of HEST-1k; see ``read_section``."""
    xy, unit, of = _coordinates(data, options, path)
    if options.unit != "auto":
        unit = options.unit
    source: dict[str, Any] = {"format": "anndata"}
    mpp = options.mpp if unit == "px" else None
    if is_hest:
        if options.unit == "um":
            raise InputError(f"{path}: unit='um', but coordinates of HEST-1k are pixels; read it with kind='anndata'")
        mpp, origin = pixel_size(data, path, options)
        refuse_spots(data, xy * mpp, path)
        unit, source = "px", {"format": "hest", "mpp_from": origin}
    elif not unit:
        raise InputError(
            f"{path}: nothing says what the coordinates in {of} are measured in; pass unit='um', or unit='px'"
            " with mpp (micrometres per pixel of the H&E image)"
        )
    elif unit == "px" and options.mpp is None:
        raise InputError(f"{path}: the coordinates in {of} are pixels; pass mpp, micrometres per pixel")
    source |= {"coordinates": f"{of}, {unit}"} | ({} if mpp is None else {"mpp": mpp})
    ids = as_text(data.obs_names.to_numpy())
    check_ids(ids, path)
    advice = "what they were cannot be proved" if options.undo_log else "if they are normalised, try `undo_log=True`"
    undo = undo_log_provably if options.undo_log else None
    counts, var, place = find_counts(data, path, options.layer or "auto", undo, f"; {advice}")
    names, origin = _symbols(var, options, path)
    if "feature_types" in var.columns:
        gene, features_left_out = split_genes(as_text(var["feature_types"].to_numpy()))
    else:
        gene = ~np.array([each.startswith(_CONTROLS) for each in names], dtype=bool)
        features_left_out = {} if gene.all() else {"controls, by their names": int((~gene).sum())}
    if not gene.any():
        raise InputError(f"{path}: none of its {len(names):,} features is a gene ({features_left_out})")
    placed, left_out = places(xy, path, options)
    obs = data.obs[placed]
    if {"x_centroid", "y_centroid"} <= set(obs.columns):  # of a Xenium: its areas are square micrometres
        obs = obs.rename(columns={"cell_area": CELL_AREA, "nucleus_area": NUCLEUS_AREA})
    xy = xy[placed] * (1.0 if mpp is None else mpp)
    gene_ids = as_text(var.index.to_numpy())[gene]
    return Section(
        name=name or path.stem,
        cells=make_cells(counts[placed][:, gene], ids[placed], names[gene], gene_ids, xy, obs),
        to_image=None if mpp is None else scaling(1 / mpp),
        source=source
        | {
            "files": [path.name],
            "counts": place,
            "genes": origin,
            "features_left_out": features_left_out,
            "left_out": left_out,
        },
    )


def _coordinates(data: anndata.AnnData, options: ReadOptions, path: Path) -> tuple[NDArray[np.float64], str, str]:
    """(N, 2) coordinates from the columns that the options name, or usual ones, or from ``obsm``.

    Also their unit, ``um``, ``px`` or "" (unknown), and where they were read from.
    """
    columns, place = list(map(str, data.obs.columns)), data.obsm.get(options.obsm)
    pair = next((names for names in COLUMNS if set(names) <= set(columns)), None)
    if options.x is not None or options.y is not None:
        pair = (str(options.x), str(options.y))
        if not set(pair) <= set(columns):
            others = ", ".join(columns[:20]) or "none"
            raise InputError(f"{path}: obs has no columns {' and '.join(pair)} for x and y; it has {others}")
    elif pair is not None and place is not None and COLUMNS[pair] == "px":
        pair = None  # obsm is read instead
    with reading(path):
        if pair is not None:
            of, unit = f"obs {pair[0]}, {pair[1]}", COLUMNS.get(pair, "")
            xy = data.obs[list(pair)].to_numpy(dtype=np.float64)
        elif place is not None:
            of, unit = f"obsm {options.obsm!r}", ""
            xy = np.asarray(place, dtype=np.float64)[:, :2]  # a third is the height in the section
        else:
            usual = "; ".join(f"{x}, {y}" for x, y in COLUMNS)
            raise InputError(
                f"{path}: has no coordinates: neither obsm {options.obsm!r} nor columns of obs ({usual}); obs has"
                f" {', '.join(columns[:20]) or 'no columns'}. Name them with x and y"
            )
    if pair == AMBIGUOUS and options.swap_xy is None:
        raise InputError(
            f"{path}: x_pixel and y_pixel are column and row in some files, row and column in others; look at an"
            " overlay and pass `swap_xy=False` (x is the column) or `swap_xy=True` (x is the row)"
        )
    if options.swap_xy:
        xy, of = xy[:, ::-1], f"{of}, exchanged"
    return np.ascontiguousarray(xy), unit, of


def _symbols(var: pd.DataFrame, options: ReadOptions, path: Path) -> tuple[NDArray[np.object_], str]:
    """Gene symbols, and what they were read from."""
    names = as_text(var.index.to_numpy())
    column, origin = options.gene_column, f"var {options.gene_column}"
    if column is None and np.mean([name.startswith("ENS") for name in names]) > 0.9:  # references name genes by symbols
        column = next((each for each in _SYMBOLS if each in var.columns), None)
        origin = f"var {column} (var_names are Ensembl ids)"
    if column is None:
        return names, "var_names"
    if column not in var.columns:
        raise InputError(f"{path}: var has no column {column!r}; it has {', '.join(map(str, var.columns)) or 'none'}")
    return as_text(var[column].to_numpy()), origin
