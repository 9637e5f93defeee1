"""An AnnData file (.h5ad) with whole counts and with coordinates in ``obs`` or ``obsm``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.spatial.affine import scaling
from celldetr.spatial.counts import find_counts, undo_log_provably
from celldetr.spatial.readers.common import (
    ReadOptions,
    as_text,
    check_ids,
    make_cells,
    places,
    reading,
)
from celldetr.spatial.readers.tables import GENE_TYPES
from celldetr.spatial.section import CELL_AREA, NUCLEUS_AREA, Section, X, Y

if TYPE_CHECKING:
    import anndata

# Columns of obs that coordinates usually have, and their unit.
COLUMNS = {
    (X, Y): "um",
    ("x_centroid", "y_centroid"): "um",
    ("pxl_col_in_fullres", "pxl_row_in_fullres"): "px",
    ("x_pixel", "y_pixel"): "px",
}
AMBIGUOUS = ("x_pixel", "y_pixel")
_SYMBOLS = ("gene_symbol", "gene_symbols", "symbol", "gene_name", "feature_name", "gene_names")
_CONTROLS = ("NegControl", "BLANK_", "UnassignedCodeword_", "DeprecatedCodeword_", "antisense_", "Intergenic_Region_")


@dataclass(frozen=True)
class Coordinates:
    """Where cells are, as the file has it: (N, 2), ``um``, ``px`` or "" (not said), and what they were read from."""

    xy: NDArray[np.float64]
    unit: str
    of: str


def load(path: Path) -> anndata.AnnData:
    """Read the file.

    Raises:
        InputError: no such file, or not an AnnData file.
    """
    import anndata

    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an AnnData file (.h5ad)")
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old versions of the format, which are read all the same
        return anndata.read_h5ad(path)


def read_anndata(path: Path, *, name: str = "", options: ReadOptions | None = None) -> Section:
    """Read an AnnData file, see ``read_section``.

    Raises:
        InputError: it cannot be read, has no whole counts, or no coordinates of a known unit.
    """
    options = options or ReadOptions()
    data = load(path)
    found = coordinates(data, options, path)
    unit = options.unit if options.unit != "auto" else found.unit
    if not unit:
        raise InputError(
            f"{path}: nothing says what the coordinates in {found.of} are measured in; pass unit='um', or unit='px'"
            " with mpp (micrometres per pixel of the H&E image)"
        )
    if unit == "px" and options.mpp is None:
        raise InputError(f"{path}: the coordinates in {found.of} are pixels; pass mpp, micrometres per pixel")
    source = {"format": "anndata", "coordinates": f"{found.of}, {unit}"}
    return section(data, found, options.mpp if unit == "px" else None, path, name, options, source)


def coordinates(data: anndata.AnnData, options: ReadOptions, path: Path) -> Coordinates:
    """Coordinates from the columns that the options name, or usual ones, or from ``obsm``.

    Raises:
        InputError: there are none, or whether x is x must be decided by ``swap_xy``.
    """
    columns, place = list(map(str, data.obs.columns)), data.obsm.get(options.obsm)
    if (options.x is None) != (options.y is None):
        raise InputError(f"{path}: x={options.x!r} and y={options.y!r}: name both columns, or neither")
    if options.x is not None and options.y is not None:
        missing = [name for name in (options.x, options.y) if name not in columns]
        if missing:
            raise InputError(
                f"{path}: obs has no column {', '.join(missing)}; it has {', '.join(columns[:20]) or 'none'}"
            )
        pair: tuple[str, str] | None = (options.x, options.y)
    else:
        pair = next((names for names in COLUMNS if set(names) <= set(columns)), None)
    if pair is not None and (options.x is not None or place is None or COLUMNS[pair] == "um"):
        of, unit = f"obs {pair[0]}, {pair[1]}", COLUMNS.get(pair, "")
        with reading(path):
            xy = data.obs[list(pair)].to_numpy(dtype=np.float64)
    elif place is not None:
        pair, of, unit = None, f"obsm {options.obsm!r}", ""
        with reading(path):
            xy = np.asarray(place, dtype=np.float64)
        if xy.ndim != 2 or xy.shape[1] < 2:
            raise InputError(f"{path}: {of} has shape {xy.shape}; expected (cells, 2)")
        xy = xy[:, :2]  # a third is the height in the section
    else:
        usual = "; ".join(f"{x}, {y}" for x, y in COLUMNS)
        raise InputError(
            f"{path}: has no coordinates: neither obsm {options.obsm!r} nor columns of obs ({usual}); obs has"
            f" {', '.join(columns[:20]) or 'no columns'}. Name them with x and y"
        )
    if pair == AMBIGUOUS and options.swap_xy is None:
        raise InputError(
            f"{path}: x_pixel and y_pixel are column and row in some files, row and column in others; look at an"
            " overlay and pass swap_xy=False (x is the column) or swap_xy=True (x is the row)"
        )
    if options.swap_xy:
        xy, of = xy[:, ::-1], f"{of}, exchanged"
    return Coordinates(np.ascontiguousarray(xy), unit, of)


def section(
    data: anndata.AnnData,
    found: Coordinates,
    mpp: float | None,
    path: Path,
    name: str,
    options: ReadOptions,
    source: dict[str, Any],
) -> Section:
    """A section from an AnnData in memory.

    Args:
        data: counts, genes, columns; not changed.
        found: its coordinates.
        mpp: micrometres per pixel if these are pixels of the H&E image; None: they are micrometres.
        path, name: of the file, for messages, and of the section.
        options: see there.
        source: what is known of the file.

    Raises:
        InputError: no whole counts, no genes, ids that occur twice, or cells without a place.
    """
    ids = as_text(data.obs_names.to_numpy())
    check_ids(ids, path)
    advice = "what they were cannot be proved" if options.undo_log else "if they are normalised, try undo_log=True"
    undo = undo_log_provably if options.undo_log else None
    whole = find_counts(data, path, options.layer or "auto", undo, f"; {advice}")
    counts, var = whole.matrix, whole.var
    genes, said = _symbols(var, options, path)
    gene, features_left_out = _genes_only(var, genes)
    if not gene.any():
        raise InputError(f"{path}: none of its {len(genes):,} features is a gene ({features_left_out})")
    placed, left_out = places(found.xy, path, options)
    if not gene.all():
        counts, var, genes = counts[:, gene], var[gene], genes[gene]
    obs = data.obs
    if not placed.all():
        counts, ids, obs = counts[placed], ids[placed], obs[placed]
    if {"x_centroid", "y_centroid"} <= set(obs.columns):  # of a Xenium: its areas are square micrometres
        obs = obs.rename(columns={"cell_area": CELL_AREA, "nucleus_area": NUCLEUS_AREA})
    xy = found.xy[placed] * (1.0 if mpp is None else mpp)
    return Section(
        name=name or path.stem,
        cells=make_cells(counts, ids, genes, xy, obs, {"gene_ids": as_text(var.index.to_numpy())}),
        to_image=None if mpp is None else scaling(1 / mpp),
        source={
            **source,
            "files": [path.name],
            **({} if mpp is None else {"mpp": mpp}),
            "counts": whole.place,
            "genes": said,
            "features_left_out": features_left_out,
            "left_out": left_out,
        },
    )


def _symbols(var: Any, options: ReadOptions, path: Path) -> tuple[NDArray[np.object_], str]:
    """Gene symbols, and what they were read from."""
    if options.gene_column is not None:
        if options.gene_column not in var.columns:
            columns = ", ".join(map(str, var.columns)) or "none"
            raise InputError(f"{path}: var has no column {options.gene_column!r}; it has {columns}")
        return as_text(var[options.gene_column].to_numpy()), f"var {options.gene_column}"
    names = as_text(var.index.to_numpy())
    if len(names) and np.mean([name.startswith("ENS") for name in names]) > 0.9:
        column = next((column for column in _SYMBOLS if column in var.columns), None)
        if column is not None:  # references name genes by symbols
            return as_text(var[column].to_numpy()), f"var {column} (var_names are Ensembl ids)"
    return names, "var_names"


def _genes_only(var: Any, genes: NDArray[np.object_]) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which features are genes, and how many others there are of each type."""
    if "feature_types" in var.columns:
        types = as_text(var["feature_types"].to_numpy()).astype(str)
        gene = np.isin(types, GENE_TYPES)
        kinds, numbers = np.unique(types[~gene], return_counts=True)
        return gene, dict(zip(kinds.tolist(), numbers.tolist(), strict=True))
    control = np.array([name.startswith(_CONTROLS) for name in genes], dtype=bool)
    return ~control, {"controls, by their names": int(control.sum())} if control.any() else {}
