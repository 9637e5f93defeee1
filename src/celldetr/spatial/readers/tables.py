"""The tables of a Xenium bundle, read without its manifest: cells, and the matrix of cells by features.

Formats: https://www.10xgenomics.com/support/software/xenium-onboard-analysis (outputs, versions 1 to 4). They are those
of Cell Ranger (HDF5, MEX) and Zarr; ids are integers up to version 1.2 and text like ``aaaabckm-1`` since.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.spatial.readers.common import as_text, check_ids, reading

if TYPE_CHECKING:
    import pandas as pd

CELL_ID = "cell_id"
CENTROID = ("x_centroid", "y_centroid")
CELLS = ("cells.parquet", "cells.csv.gz", "cells.csv")
MATRIX = ("cell_feature_matrix.h5", "cell_feature_matrix.zarr.zip", "cell_feature_matrix")
_RUNS_CODE = ("pickle", "python")  # codecs of Zarr that run what a file brings


@dataclass
class Matrix:
    """Cells by features, as a file has it.

    Attributes:
        ids: (N,) of cells.
        counts: (N, F) CSR float32.
        names, gene_ids, types: (F,) of features.
    """

    ids: NDArray[np.object_]
    counts: Any
    names: NDArray[np.object_]
    gene_ids: NDArray[np.object_]
    types: NDArray[np.object_]


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


def read_matrix(path: Path) -> Matrix:
    """The matrix of cells by features, of whichever of the three formats."""
    with reading(path):
        if path.is_dir():
            matrix = _mex(path)
        elif path.suffix == ".zip":
            matrix = _zarr(path)
        else:
            matrix = _hdf5(path)
        counts = matrix.counts.astype(np.float32)
        counts.check_format()
        counts.sum_duplicates()
        counts.eliminate_zeros()
        matrix.counts = counts
    if counts.shape != (len(matrix.ids), len(matrix.names)):
        raise InputError(
            f"{path}: {counts.shape[0]:,} x {counts.shape[1]:,} numbers, but {len(matrix.ids):,} cells and"
            f" {len(matrix.names):,} features are named; export it anew"
        )
    check_ids(matrix.ids, path)
    return matrix


def _hdf5(path: Path) -> Matrix:
    import h5py
    from scipy import sparse

    with h5py.File(path, "r") as file:
        if "matrix" not in file:
            raise InputError(
                f"{path}: has no group 'matrix'; expected cell_feature_matrix.h5 of a Xenium bundle (for an AnnData"
                " file, name it .h5ad)"
            )
        group = file["matrix"]
        features = group["features"]
        columns, rows = (int(number) for number in group["shape"][:])
        # Written as features by cells in CSC, which is cells by features in CSR.
        parts = [group[name][:] for name in ("data", "indices", "indptr")]
        counts = sparse.csr_matrix(tuple(parts), shape=(rows, columns))
        names, ids, types = (as_text(features[name][:]) for name in ("name", "id", "feature_type"))
        return Matrix(as_text(group["barcodes"][:]), counts, names, ids, types)


def _mex(folder: Path) -> Matrix:
    import pandas as pd
    from scipy import io

    files = []
    for name in ("matrix.mtx", "features.tsv", "barcodes.tsv"):
        path = next((folder / each for each in (f"{name}.gz", name) if (folder / each).is_file()), None)
        if path is None:
            raise InputError(f"{folder}: has no {name}.gz; expected it beside matrix, features and barcodes")
        files.append(path)
    with reading(files[0]):
        counts = io.mmread(files[0]).T.tocsr()
    with reading(files[1]):
        features = pd.read_csv(files[1], sep="\t", header=None, dtype=str, quoting=3, keep_default_na=False)
        ids, names, types = (features[column].to_numpy(dtype=object) for column in range(3))
    with reading(files[2]):
        barcodes = pd.read_csv(files[2], sep="\t", header=None, dtype=str, keep_default_na=False)
    return Matrix(barcodes[0].to_numpy(dtype=object), counts, names, ids, types)


def _zarr(path: Path) -> Matrix:
    import zarr
    from scipy import sparse

    check_zarr_zip(path)
    store = zarr.storage.ZipStore(path, mode="r", read_only=True)
    try:
        group: Any = zarr.open_group(store, mode="r")["cell_features"]
        names, ids, types = (as_text(list(group.attrs[f"feature_{name}"])) for name in ("keys", "ids", "types"))
        cells = cell_ids_as_text(np.asarray(group["cell_id"][...]))
        parts = [np.asarray(group[name][...]) for name in ("data", "indices", "indptr")]
    finally:
        store.close()
    if len(parts[2]) == len(names) + 1:  # the documented order: features by cells
        counts = sparse.csc_matrix(tuple(parts), shape=(len(cells), len(names))).tocsr()
    else:
        counts = sparse.csr_matrix(tuple(parts), shape=(len(cells), len(names)))
    return Matrix(cells, counts, names, ids, types)


def check_zarr_zip(path: Path) -> None:
    """Refuse a Zarr archive with a codec that runs code."""
    with reading(path), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.rsplit("/", 1)[-1] not in (".zarray", "zarr.json", ".zmetadata"):
                continue
            text = json.dumps(json.loads(archive.read(name))).lower()
            if any(f'"{codec}' in text for codec in _RUNS_CODE):
                raise InputError(f"{path}: {name} asks for a codec that runs code from the file; it is not read")


def cell_ids_as_text(cell_id: NDArray[Any]) -> NDArray[np.object_]:
    """Ids as Zarr has them -> text: (N,) integers; or (N, 2) of a prefix, in letters a to p for 0 to f, and suffix."""
    if cell_id.ndim == 1:
        return as_text(cell_id)
    nibbles = (cell_id[:, :1].astype(np.uint32) >> np.arange(28, -1, -4, dtype=np.uint32)) & 15
    letters = (nibbles + ord("a")).astype(np.uint8).view("S8").ravel()
    return np.char.add(np.char.add(letters.astype(str), "-"), cell_id[:, 1].astype(str)).astype(object)
