"""A real Xenium section without an H&E image (human bone marrow, 84,518 cells x 541 genes) as a ``Section``.

What benchmarks of ``celldetr.spatial`` enlarge. The folder is a re-saved
copy of 10x Genomics' data with columns of its own: cell_feature_matrix.h5; cells.parquet (cell_id, x_px, y_px,
cluster); cell_boundaries.parquet (vertex lists). A pixel is 0.2125 um.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import shapely
from scipy.sparse import csr_matrix

from celldetr.research.simulation.bundle import PIXEL_UM
from celldetr.spatial.section import CELL_AREA, Section, X, Y


def bone_marrow(folder: Path, *, outlines: bool = True) -> Section:
    """The section: ``obs["cluster"]`` is the source's clustering; outlines of cells, no nuclei."""
    with h5py.File(folder / "cell_feature_matrix.h5") as file:
        group = file["matrix"]
        shape = tuple(int(side) for side in group["shape"][:][::-1])
        counts = csr_matrix((group["data"][:].astype(np.float32), group["indices"][:], group["indptr"][:]), shape=shape)
        ids = group["barcodes"][:].astype(str)
        features = group["features"]
        var = pd.DataFrame({"gene_ids": features["id"][:].astype(str)}, index=features["name"][:].astype(str))
        genes = features["feature_type"][:].astype(str) == "Gene Expression"
    cells = pd.read_parquet(folder / "cells.parquet").set_index("cell_id").loc[ids]
    obs = pd.DataFrame(
        {X: cells["x_px"] * PIXEL_UM, Y: cells["y_px"] * PIXEL_UM, "cluster": cells["cluster"].astype(str)}, index=ids
    )
    polygons = None
    if outlines:
        table = pq.read_table(folder / "cell_boundaries.parquet").combine_chunks()
        x, y = (table[f"vertex_{axis}_px"].combine_chunks() for axis in "xy")
        points = np.column_stack([x.flatten().to_numpy(), y.flatten().to_numpy()]) * PIXEL_UM
        offsets = x.value_lengths().to_numpy().cumsum()
        rings = shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, points, (np.concatenate([[0], offsets]), np.arange(len(offsets) + 1))
        )
        polygons = pd.Series(rings, index=table["cell_id"].to_pylist()).reindex(ids).to_numpy(dtype=object)
        polygons[pd.isna(polygons)] = None
        obs[CELL_AREA] = shapely.area(polygons)
    data = anndata.AnnData(counts[:, genes], obs=obs, var=var[genes])
    data.var_names_make_unique()
    return Section("bone-marrow", data, outlines=polygons, source={"format": "re-saved Xenium"})
