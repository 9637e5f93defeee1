"""SpatialData (``.zarr``): the cells as shapes and as a table that annotates them, for spatialdata, napari and squidpy.

Shapes are the outlines, or the boxes, in level-0 pixels; the coordinate system ``global`` is these pixels, so that the
slide lies under them, and ``micrometers`` the tissue. The table is that of ``celldetr.cells.export.anndata``, joined by
``name``. The slide's image goes with them where it is given. SpatialData writes cells from memory: 1.8 GB at the peak
for a million.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from celldetr.cells.export.anndata import as_anndata
from celldetr.cells.export.slide_image import Picture, image_pyramid
from celldetr.cells.reader import CellTable
from celldetr.cells.rings import ring_columns, rings
from celldetr.cells.schema import embedding_matrix
from celldetr.errors import InputError

SHAPES, TABLE, IMAGE, NAME = "cells", "table", "slide", "name"
PIXELS, MICROMETERS = "global", "micrometers"


def write_spatialdata(
    table: CellTable, out: Path, *, image: Picture | None = None, image_mpp: float | None = None
) -> None:
    """Write the cells as a SpatialData store.

    Args:
        table, out: the cells, and the folder.
        image: the slide, open, whose pixels are to lie under them.
        image_mpp: micrometres per pixel of its finest level; None: as the slide is.

    - ``shapes["cells"]``: the outline of a cell, or its box; the index is the name, ``slide:cell_id``; not there if
      there is no cell;
    - ``tables["table"]``: ``X`` embeddings (N, d) float32, ``obs`` every other column, ``obsm["spatial"]`` in pixels;
    - ``images["slide"]``: with ``image``, its pixels as a multiscale image (c, y, x);
    - coordinate systems ``global``, level-0 pixels, and where the slide's resolution is known ``micrometers``.

    Raises:
        InputError: ``image`` is not the slide of these cells, or ``image_mpp`` is out of range or without ``image``.
    """
    import pandas as pd
    import spatialdata

    zoom = _zoom(table, image, image_mpp)
    cells = as_anndata(table)
    cells.X = embedding_matrix(table.read(["embedding"])["embedding"]).astype(np.float32)
    spatialdata.sanitize_table(cells)  # names of columns, as those of types with spaces: letters, digits, ``_.-`` only
    cells.obs[NAME] = cells.obs_names.to_numpy(object)
    cells.obs["region"] = pd.Categorical.from_codes(np.zeros(table.count, dtype=np.intp), categories=pd.Index([SHAPES]))
    # SpatialData has no element of no shapes: of a slide without cells there is an empty table that belongs to none.
    belongs = {"region": SHAPES, "region_key": "region", "instance_key": NAME} if table.count else {}
    data = spatialdata.SpatialData(
        images={} if image is None else {IMAGE: image_pyramid(image, zoom, _systems(table))},
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

    drawn = [shapely.Polygon(ring) for ring in rings(table.read(ring_columns(table)))]
    frame = geopandas.GeoDataFrame(geometry=drawn, index=names.to_numpy(object))
    return ShapesModel.parse(frame, transformations=_systems(table))


def _systems(table: CellTable) -> dict[str, Any]:
    """Coordinate systems, and the transformations of level-0 pixels into them."""
    from spatialdata.transformations import Identity, Scale

    systems: dict[str, Any] = {PIXELS: Identity()}
    if (mpp := table.mpp_xy) is not None:
        systems[MICROMETERS] = Scale(list(mpp), axes=("x", "y"))
    return systems


def _zoom(table: CellTable, image: Picture | None, image_mpp: float | None) -> float:
    """Pixels of the image that is written per level-0 pixel, after all is checked."""
    if image is None:
        if image_mpp is not None:
            raise InputError(f"`image_mpp={image_mpp}`: there is no image; give the slide as `image`")
        return 1.0
    told = tuple(table.run.get(side) for side in ("width", "height"))
    if None not in told and told != (image.width, image.height):
        raise InputError(
            f"{image.file}: measures {image.width} x {image.height} px, the slide of these cells {told[0]} x {told[1]}"
        )
    if image_mpp is None:
        return 1.0
    if table.mpp is None or not image_mpp > 0:
        raise InputError(f"`image_mpp={image_mpp}`: must be positive, and the slide's resolution known")
    return min(1.0, table.mpp / image_mpp)
