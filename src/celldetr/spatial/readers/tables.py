"""The tables of a Xenium bundle, read without its manifest: cells, and the matrix of cells by features.

Formats: https://www.10xgenomics.com/support/software/xenium-onboard-analysis (outputs, versions 1 to 4). They are those
of Cell Ranger (HDF5, MEX) and Zarr; ids are integers up to version 1.2 and text like ``aaaabckm-1`` since.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError, optional
from celldetr.io.safe_io import check_codecs
from celldetr.spatial.counts import csr_counts
from celldetr.spatial.readers.common import as_text, check_ids, reading

if TYPE_CHECKING:
    import anndata
    import pandas as pd

Names = NDArray[np.object_]
CELL_ID = "cell_id"
CENTROID = ("x_centroid", "y_centroid")
CELLS = ("cells.parquet", "cells.csv.gz", "cells.csv")
MATRIX = ("cell_feature_matrix.h5", "cell_feature_matrix.zarr.zip", "cell_feature_matrix")


def read_cells(path: Path) -> pd.DataFrame:
    """The cells table, indexed by id as text, with at least ``x_centroid`` and ``y_centroid`` (micrometres)."""
    import pandas as pd

    with reading(path):
        cells = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype={CELL_ID: str})
    missing = [name for name in (CELL_ID, *CENTROID) if name not in cells.columns]
    if missing:
        raise InputError(
            f"{path}: has no column {', '.join(missing)} (it has {', '.join(map(str, cells.columns[:12]))}); expected"
            " the cells table of a Xenium bundle, unchanged"
        )
    with reading(path):
        cells = cells.astype(dict.fromkeys(CENTROID, np.float64))
    ids = as_text(cells[CELL_ID].to_numpy())
    check_ids(ids, path)
    cells = cells.drop(columns=[CELL_ID, *(name for name in cells.columns if str(name).startswith("Unnamed"))])
    for name in cells.select_dtypes(object).columns:
        cells[name] = as_text(cells[name].to_numpy())
    return cells.set_index(pd.Index(ids, dtype=object))


def read_matrix(path: Path) -> anndata.AnnData:
    """Cells by features, of whichever of the three formats: ``X`` CSR float32; ``gene_ids`` and ``feature_types``."""
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that are not unique
        if path.suffix == ".zip":
            matrix = _read_zarr(path)
        elif path.is_dir():
            matrix = optional("scanpy", "spatial").read_10x_mtx(path, gex_only=False)
        else:
            matrix = _read_hdf5(path)
        matrix.X.check_format()
    matrix.X = csr_counts(matrix.X)
    check_ids(matrix.obs_names.to_numpy(dtype=object), path)
    return matrix


def _read_hdf5(path: Path) -> anndata.AnnData:
    import h5py
    from scipy import sparse

    with h5py.File(path, "r") as file:
        group = file["matrix"]
        columns, rows = (int(number) for number in group["shape"][:])
        # Written as features by cells in CSC, which is cells by features in CSR.
        parts = tuple(group[name][:] for name in ("data", "indices", "indptr"))
        counts = sparse.csr_matrix(parts, shape=(rows, columns), dtype=np.float32)
        names, ids, types = (as_text(group["features"][name][:]) for name in ("name", "id", "feature_type"))
        return _matrix(counts, as_text(group["barcodes"][:]), names, ids, types)


def _read_zarr(path: Path) -> anndata.AnnData:
    import zarr
    from scipy import sparse

    check_zarr_zip(path)
    store = zarr.storage.ZipStore(path, mode="r", read_only=True)
    try:
        group: Any = zarr.open_group(store, mode="r")["cell_features"]
        names, ids, types = (as_text(list(group.attrs[f"feature_{name}"])) for name in ("keys", "ids", "types"))
        cells = cell_ids_as_text(np.asarray(group["cell_id"][...]))
        parts = tuple(np.asarray(group[name][...]) for name in ("data", "indices", "indptr"))
    finally:
        store.close()
    by_feature = len(parts[2]) == len(names) + 1  # the documented order
    kind = sparse.csc_matrix if by_feature else sparse.csr_matrix
    counts = kind(parts, shape=(len(cells), len(names)), dtype=np.float32).tocsr()
    return _matrix(counts, cells, names, ids, types)


def _matrix(counts: Any, cells: Names, names: Names, ids: Names, types: Names) -> anndata.AnnData:
    import anndata
    import pandas as pd

    var = pd.DataFrame({"gene_ids": ids, "feature_types": types}, index=pd.Index(names, dtype=object))
    return anndata.AnnData(counts, obs=pd.DataFrame(index=pd.Index(cells, dtype=object)), var=var)


def check_zarr_zip(path: Path) -> None:
    """Refuse a Zarr archive with a codec that runs code."""
    with reading(path), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.rsplit("/", 1)[-1] not in (".zarray", "zarr.json", ".zmetadata"):
                continue
            check_codecs(f"{path}: {name}", archive.read(name))


def cell_ids_as_text(cell_id: NDArray[Any]) -> NDArray[np.object_]:
    """Ids as Zarr has them -> text: (N,) integers; or (N, 2) of a prefix, in letters a to p for 0 to f, and suffix."""
    if cell_id.ndim == 1:
        return as_text(cell_id)
    nibbles = (cell_id[:, :1].astype(np.uint32) >> np.arange(28, -1, -4, dtype=np.uint32)) & 15
    letters = (nibbles + ord("a")).astype(np.uint8).view("S8").ravel()
    return np.char.add(np.char.add(letters.astype(str), "-"), cell_id[:, 1].astype(str)).astype(object)
