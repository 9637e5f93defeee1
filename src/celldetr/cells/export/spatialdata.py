"""SpatialData (``.zarr``): the cells as shapes and as a table that annotates them, for spatialdata, napari and squidpy.

Shapes are the outlines, or the boxes, in level-0 pixels; the coordinate system ``global`` is these pixels, so that the
slide lies under them, and ``micrometers`` the tissue. The table is that of ``celldetr.cells.export.anndata``, joined by
``name``. SpatialData writes from memory: 1.8 GB at the peak for a million cells.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from celldetr.cells.export.anndata import as_anndata
from celldetr.cells.reader import CellTable
from celldetr.cells.rings import ring_columns, rings
from celldetr.cells.schema import embedding_matrix

SHAPES, TABLE, NAME = "cells", "table", "name"
PIXELS, MICROMETERS = "global", "micrometers"


def write_spatialdata(table: CellTable, out: Path) -> None:
    """Write the cells as a SpatialData store.

    - ``shapes["cells"]``: the outline of a cell, or its box; the index is the name, ``slide:cell_id``; not there if
      there is no cell;
    - ``tables["table"]``: ``X`` embeddings (N, d) float32, ``obs`` every other column, ``obsm["spatial"]`` in pixels;
    - coordinate systems ``global``, level-0 pixels, and where the slide's resolution is known ``micrometers``.
    """
    import pandas as pd
    import spatialdata

    cells = as_anndata(table)
    cells.X = embedding_matrix(table.read(["embedding"])["embedding"]).astype(np.float32)
    spatialdata.sanitize_table(cells)  # names of columns, as those of types with spaces: letters, digits, ``_.-`` only
    cells.obs[NAME] = cells.obs_names.to_numpy(object)
    cells.obs["region"] = pd.Categorical.from_codes(np.zeros(table.count, dtype=np.intp), categories=pd.Index([SHAPES]))
    # SpatialData has no element of no shapes: of a slide without cells there is an empty table that belongs to none.
    belongs = {"region": SHAPES, "region_key": "region", "instance_key": NAME} if table.count else {}
    data = spatialdata.SpatialData(
        shapes={SHAPES: _shapes(table, cells.obs_names)} if table.count else {},
        tables={TABLE: spatialdata.models.TableModel.parse(cells, **belongs)},
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "zarr v3 autosharding", UserWarning)  # about zarr's next version
        data.write(out)


def _shapes(table: CellTable, names: Any) -> Any:
    """GeoDataFrame of the outlines, with their transformations to coordinate systems."""
    import geopandas
    import shapely
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity, Scale

    drawn = [shapely.Polygon(ring) for ring in rings(table.read(ring_columns(table)))]
    frame = geopandas.GeoDataFrame(geometry=drawn, index=names.to_numpy(object))
    systems: dict[str, Any] = {PIXELS: Identity()}
    if (mpp := table.mpp_xy) is not None:
        systems[MICROMETERS] = Scale(list(mpp), axes=("x", "y"))
    return ShapesModel.parse(frame, transformations=systems)
