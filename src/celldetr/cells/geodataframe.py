"""The polygons of cells for geopandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import shapely

from celldetr.errors import InputError, optional

if TYPE_CHECKING:
    import pandas as pd


def to_geodataframe(cells: pd.DataFrame) -> Any:
    """Cells as a ``geopandas.GeoDataFrame``: ``geometry`` holds polygons instead of WKB, without a coordinate system.

    Args:
        cells: of ``Model.predict`` or ``read_cells``, with the column ``geometry``.

    Returns:
        All columns of ``cells``, in its order and with its index; coordinates are level-0 pixels, y grows downwards.

    Raises:
        InputError: no column ``geometry``, or geopandas (extra ``spatial``) is not installed.

    Examples:
        >>> import celldetr, tifffile
        >>> image = tifffile.imread(celldetr.sample_slide())[900:1100, 950:1150]
        >>> cells = celldetr.load_model("small-20x").predict(image, mpp=0.499)
        >>> bool((celldetr.to_geodataframe(cells).area > 0).all())
        True
    """
    import pandas as pd

    geopandas = optional("geopandas", "spatial")
    if "geometry" not in cells.columns:
        raise InputError("these cells have no column 'geometry', from which polygons are made")
    others = pd.DataFrame(cells.drop(columns="geometry"))
    return geopandas.GeoDataFrame(others, geometry=shapely.from_wkb(cells["geometry"].to_numpy()), crs=None)
