"""AnnData (``.h5ad``) for scanpy, squidpy and the rest of scverse.

X is the embedding, in float32, which scanpy computes in; it is streamed into the file after the rest, so that it need
not fit in memory.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from celldetr.cells.clusters import CLUSTER
from celldetr.cells.palette import hex_colour
from celldetr.cells.reader import CellTable, batch_embeddings, by_cluster, by_taught
from celldetr.cells.schema import TAUGHT_TYPE

if TYPE_CHECKING:
    import anndata
    import h5py
    import pandas as pd


def _observations(table: CellTable) -> pd.DataFrame:
    """All columns but the embedding and the geometry, one row a cell."""
    import pandas as pd

    frame = table.frame([name for name in table.columns if name not in ("geometry", "embedding")])
    frame.index = pd.Index(table.cell_names(frame["cell_id"]), dtype=object)
    if table.clusters:
        names = [str(number) for number in range(table.clusters)]  # as scanpy's own clusterings have them
        frame[CLUSTER] = pd.Categorical.from_codes(frame[CLUSTER], categories=pd.Index(names))
    return frame.rename(columns=lambda name: name.replace("/", "_"))  # of types; in HDF5 it would make groups


def _stream_embeddings(table: CellTable, file: h5py.File) -> None:
    """Write X as AnnData's on-disk format has it (encoding ``array`` 0.2.0), uncompressed: noise does not pack."""
    if "X" in file:
        del file["X"]
    matrix = file.create_dataset("X", (table.count, table.embedding_dim), dtype=np.float32)
    matrix.attrs["encoding-type"] = "array"
    matrix.attrs["encoding-version"] = "0.2.0"
    start = 0
    for batch in table.batches(["embedding"]):
        matrix[start : start + len(batch)] = batch_embeddings(batch)
        start += len(batch)


def size_needed(table: CellTable) -> int:
    """Upper bound of the size of the file, bytes."""
    numbers = 8 * len(table.columns) + 2 * 2 * 8  # obs and obsm
    # The index is text of variable length: a reference, the text and its place in HDF5's heap.
    name = 80 + len(table.name.encode())
    return table.count * (4 * table.embedding_dim + numbers + name) + 2 * len(json.dumps(table.run)) + 2**20


def _colours(table: CellTable) -> list[str]:
    return [hex_colour(colour) for colour in table.colours.values()]


def as_anndata(table: CellTable) -> anndata.AnnData:
    """All but ``X`` of what ``write_anndata`` writes."""
    import anndata
    import pandas as pd

    obs = _observations(table)
    colours = {"type_colors": _colours(table)}
    if table.clusters:
        colours[f"{CLUSTER}_colors"] = _colours(by_cluster(table))
    if table.taught_types:
        colours[f"{TAUGHT_TYPE}_colors"] = _colours(by_taught(table))
    return anndata.AnnData(
        obs=obs,
        var=pd.DataFrame(index=pd.Index([f"e{i}" for i in range(table.embedding_dim)], dtype=object)),
        obsm={
            "spatial": obs[["x_px", "y_px"]].to_numpy(dtype=np.float64),
            "spatial_um": obs[["x_um", "y_um"]].to_numpy(dtype=np.float64),
        },
        uns={
            **colours,
            "celldetr": {
                "slide": table.slide,
                "mpp": float("nan") if table.mpp is None else table.mpp,
                "run_json": json.dumps(table.run),
            },
        },
    )


def write_anndata(table: CellTable, out: Path) -> None:
    """Write the cells as AnnData.

    - ``X`` (N, d) float32, embeddings;
    - ``obs`` every other column, ``type`` categorical with all of the model's types, ``taught_type`` with those of a
      head of the user's own, ``cluster`` too if there are clusters; the index is the cell's name, ``slide:cell_id``;
    - ``obsm["spatial"]`` (N, 2) float64, centres (x, y) in level-0 pixels, as squidpy lays cells over an image, and
      ``obsm["spatial_um"]`` the same in micrometres;
    - ``uns["type_colors"]`` (and of the other two) for scanpy's plots, ``uns["celldetr"]`` slide, mpp and the text of
      ``run.json``.
    """
    import h5py

    if shutil.disk_usage(out.parent).free < size_needed(table):  # HDF5 would take the whole process down
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
    as_anndata(table).write_h5ad(out)
    with h5py.File(out, "r+") as file:
        _stream_embeddings(table, file)
