"""A Xenium output bundle written to disk, in the format of Xenium Onboard Analysis 3.

Written: experiment.xenium, cells.parquet, cell_boundaries.parquet, nucleus_boundaries.parquet, cell_feature_matrix.h5
and the cell tables of cells.zarr.zip, which spatialdata-io checks the others against. Left out: transcripts, the
morphology images and the raster masks, which must be switched off in ``spatialdata_io.xenium``.

Source: 10x Genomics, "Xenium output file formats", and spatialdata-io's reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celldetr.io.files import output_errors, replacing, write_json

PIXEL_UM = 0.2125  # of the morphology image, and of Xenium Explorer's alignment files
VERSION = "xenium-3.1.0.4"
DATASET = 1  # suffix of the cell ids
CONTROLS = 10  # negative control probes of a panel
CONTROL_RATE = 0.002  # of one probe in one cell
SUMMARY = (
    "cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x", "nucleus_centroid_y", "nucleus_area",
    "z_level", "nucleus_count",
)  # fmt: skip


@dataclass(frozen=True)
class BundleCells:
    """What goes into a bundle."""

    prefixes: NDArray[np.uint32]  # (N,) unique; ``cell_ids`` writes them as text
    nuclei: NDArray[np.float64]  # (N, V, 2) micrometres, closed: the last vertex is the first
    outlines: NDArray[np.float64]  # likewise
    counts: Any  # (N, G) CSR of whole numbers
    genes: Sequence[str]  # symbols
    gene_ids: Sequence[str]  # or the symbols again


def cell_ids(prefixes: NDArray[np.uint32]) -> NDArray[np.str_]:
    """Xenium's text for a cell: eight hexadecimal digits as the letters a to p, and the number of the data set.

    >>> str(cell_ids(np.array([0x0000000F], dtype=np.uint32))[0])
    'aaaaaaap-1'
    """
    shifts = np.arange(28, -1, -4, dtype=np.uint32)
    digits = (np.asarray(prefixes, dtype=np.uint32)[:, None] >> shifts) & np.uint32(15)
    letters = (digits + ord("a")).astype(np.uint8)
    return np.char.add(np.ascontiguousarray(letters).view("S8").ravel().astype("U8"), f"-{DATASET}")


def write_bundle(folder: Path, name: str, cells: BundleCells, rng: np.random.Generator) -> None:
    """Write a bundle into a folder, which is made.

    Raises:
        InputError: the place cannot be written to, or the disk is full.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    ids = cell_ids(cells.prefixes)
    controls = rng.poisson(CONTROL_RATE, (len(ids), CONTROLS))
    areas = {"cell": _areas(cells.outlines), "nucleus": _areas(cells.nuclei)}
    centres = {"cell": cells.outlines[:, :-1].mean(axis=1), "nucleus": cells.nuclei[:, :-1].mean(axis=1)}
    _write_cells(folder, ids, cells, controls, areas, centres["cell"])
    _write_boundaries(folder / "cell_boundaries.parquet", ids, cells.outlines)
    _write_boundaries(folder / "nucleus_boundaries.parquet", ids, cells.nuclei)
    _write_matrix(folder / "cell_feature_matrix.h5", ids, cells, controls)
    _write_zarr(folder / "cells.zarr.zip", cells.prefixes, areas, centres)
    write_json(folder / "experiment.xenium", _experiment(name, cells))  # last: a bundle without it is not whole


def _areas(polygons: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, V, 2) closed polygons -> (N,)."""
    import shapely

    return shapely.area(shapely.polygons(polygons))


def _experiment(name: str, cells: BundleCells) -> dict[str, Any]:
    counts = np.asarray(cells.counts.sum(axis=1)).ravel()
    return {
        "major_version": 6,
        "minor_version": 0,
        "run_name": name,
        "region_name": name,
        "preservation_method": "simulated",
        "num_cells": len(cells.prefixes),
        "transcripts_per_cell": float(np.median(counts)) if len(counts) else 0.0,
        "panel_name": "simulated",
        "panel_organism": "N/A",
        "panel_num_targets_predesigned": len(cells.genes),
        "panel_num_targets_custom": 0,
        "pixel_size": PIXEL_UM,
        "instrument_sw_version": "N/A",
        "analysis_sw_version": VERSION,
        "z_step_size": 3.0,
        "images": {},
        "xenium_explorer_files": {"cells_zarr_filepath": "cells.zarr.zip"},
    }


def _write_cells(
    folder: Path,
    ids: NDArray[np.str_],
    cells: BundleCells,
    controls: NDArray[np.int64],
    areas: dict[str, NDArray[np.float64]],
    centres: NDArray[np.float64],
) -> None:
    import pandas as pd

    counts = np.asarray(cells.counts.sum(axis=1)).ravel().astype(np.int64)
    none = np.zeros(len(ids), dtype=np.int64)
    table = pd.DataFrame(
        {
            "cell_id": ids.astype(object),
            "x_centroid": centres[:, 0],
            "y_centroid": centres[:, 1],
            "transcript_counts": counts,
            "control_probe_counts": controls.sum(axis=1),
            "genomic_control_counts": none,
            "control_codeword_counts": none,
            "unassigned_codeword_counts": none,
            "deprecated_codeword_counts": none,
            "total_counts": counts + controls.sum(axis=1),
            "cell_area": areas["cell"],
            "nucleus_area": areas["nucleus"],
            "nucleus_count": none + 1,
            "segmentation_method": "simulated",
        }
    )
    with replacing(folder / "cells.parquet") as temporary:
        table.to_parquet(temporary, index=False)


def _write_boundaries(path: Path, ids: NDArray[np.str_], polygons: NDArray[np.float64]) -> None:
    import pandas as pd

    vertices = polygons.shape[1]
    table = pd.DataFrame(
        {
            "cell_id": np.repeat(ids.astype(object), vertices),
            "vertex_x": polygons[..., 0].ravel().astype(np.float32),
            "vertex_y": polygons[..., 1].ravel().astype(np.float32),
            "label_id": np.repeat(np.arange(1, len(ids) + 1, dtype=np.int32), vertices),
        }
    )
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)


def _write_matrix(path: Path, ids: NDArray[np.str_], cells: BundleCells, controls: NDArray[np.int64]) -> None:
    """The matrix as Cell Ranger's HDF5, version 3: features by cells in CSC, which is cells by features in CSR."""
    import h5py
    from scipy.sparse import csr_matrix, hstack

    matrix = csr_matrix(hstack([cells.counts, csr_matrix(controls)], format="csr"), dtype=np.int32)
    matrix.sort_indices()
    probes = [f"NegControlProbe_{i:05d}" for i in range(CONTROLS)]
    features = {
        "id": [*cells.gene_ids, *probes],
        "name": [*cells.genes, *probes],
        "feature_type": ["Gene Expression"] * len(cells.genes) + ["Negative Control Probe"] * CONTROLS,
        "genome": ["Unknown"] * (len(cells.genes) + CONTROLS),
    }
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["filetype"] = "matrix"
        file.attrs["version"] = 2
        file.attrs["library_ids"] = np.array([b"simulated"])
        file.attrs["original_gem_groups"] = np.array([1])
        group = file.create_group("matrix")
        group["barcodes"] = np.char.encode(ids, "ascii")
        group["shape"] = np.array(matrix.shape[::-1], dtype=np.int32)
        for key, values in (("data", matrix.data), ("indices", matrix.indices), ("indptr", matrix.indptr)):
            wide = values.astype(np.int32 if key == "data" else np.int64)
            group.create_dataset(key, data=wide, compression="gzip")
        table = group.create_group("features")
        table["_all_tag_keys"] = np.array([b"genome"])
        for key, words in features.items():
            table[key] = np.array([str(word).encode() for word in words])


def _write_zarr(
    path: Path,
    prefixes: NDArray[np.uint32],
    areas: dict[str, NDArray[np.float64]],
    centres: dict[str, NDArray[np.float64]],
) -> None:
    """cells.zarr.zip (Zarr 2)."""
    import zarr

    n = len(prefixes)
    summary = np.column_stack(
        [centres["cell"], areas["cell"], centres["nucleus"], areas["nucleus"], np.zeros(n), np.ones(n)]
    )
    ids = np.column_stack([prefixes, np.full(n, DATASET)]).astype(np.uint32)
    with replacing(path) as temporary, zarr.storage.ZipStore(temporary, mode="w") as store:
        about = {"major_version": 6, "minor_version": 0, "number_cells": n}
        root = zarr.create_group(store, zarr_format=2, attributes=about)
        root.create_array("cell_id", data=ids)
        root.create_array("cell_summary", data=summary, attributes={"column_names": list(SUMMARY)})
        sets = root.create_group("polygon_sets")
        for number in ("0", "1"):
            sets.create_group(number).create_array("cell_index", data=np.arange(n, dtype=np.uint32))
