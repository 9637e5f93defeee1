"""A section on disk, as step 1 leaves it for the others: ``section.h5ad`` and its polygons as GeoParquet.

The h5ad is written last and removed first, so a folder with one has all of the section. Polygons are beside it rather
than in it: geopandas and QGIS open GeoParquet, and no part of AnnData holds polygons.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.files import output_errors, replacing
from celldetr.spatial.section import Polygons, Section, X, Y

SECTION: Final = "section.h5ad"
POLYGONS: Final = {"nuclei": "nuclei_um.parquet", "outlines": "outlines_um.parquet"}
_KEY = "celldetr_section"  # of uns: name, frames and provenance, as JSON
_AGAIN = "run the reading step again (`overwrite=True`)"


def write_section(section: Section, folder: Path) -> None:
    """Write a section to a folder, which is made if need be; what it held of another section is replaced.

    Raises:
        InputError: the place cannot be written to.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SECTION).unlink(missing_ok=True)
    for kind, file in POLYGONS.items():
        shapes: Polygons | None = getattr(section, kind)
        if shapes is None:
            with output_errors(folder / file):
                (folder / file).unlink(missing_ok=True)
        else:
            _write_polygons(folder / file, section.cells.obs_names.to_numpy(), shapes)
    about = {
        "name": section.name,
        "to_image": None if section.to_image is None else section.to_image.tolist(),
        "source": section.source,
        "polygons": [kind for kind in POLYGONS if getattr(section, kind) is not None],
    }
    cells = section.cells.copy() if section.cells.is_view else section.cells
    kept = cells.uns.get(_KEY)
    try:
        cells.uns[_KEY] = json.dumps(about)
        with replacing(folder / SECTION) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of names that are not unique, which step 1 has made so
            cells.write_h5ad(temporary, compression="lzf", convert_strings_to_categoricals=False)
    finally:
        del cells.uns[_KEY]
        if kept is not None:
            cells.uns[_KEY] = kept


def read_kept(folder: Path) -> Section:
    """Read back what ``write_section`` wrote.

    Raises:
        InputError: it is not there, damaged, or its files do not belong together.
    """
    import anndata

    path = folder / SECTION
    if not path.is_file():
        raise InputError(f"{path}: no such file; read a section first")
    try:
        cells = anndata.read_h5ad(path)
        about = json.loads(cells.uns.pop(_KEY))
        name, source, matrix = str(about["name"]), dict(about["source"]), about["to_image"]
        affine = None if matrix is None else np.array(matrix, dtype=np.float64).reshape(3, 3)
        polygons = [kind for kind in POLYGONS if kind in about["polygons"]]
        cells.obs[[X, Y]].to_numpy(dtype=np.float64)
    except MemoryError:
        raise
    except Exception as error:  # h5py and anndata fail on damaged files in many ways
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: cannot be read ({said}); {_AGAIN}") from None
    shapes = {kind: _read_polygons(folder / POLYGONS[kind], cells.obs_names.to_numpy()) for kind in polygons}
    return Section(name, cells, shapes.get("nuclei"), shapes.get("outlines"), affine, source)


def _write_polygons(path: Path, ids: NDArray[Any], polygons: Polygons) -> None:
    """A GeoParquet 1.1 file with a row a cell; its geometry is null where the cell has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    table = pa.table(
        {
            "cell_id": pa.array(ids.astype(str), pa.string()),
            "geometry": pa.array(shapely.to_wkb(polygons), pa.binary()),  # None stays None
        }
    )
    bounds = shapely.total_bounds(polygons)
    # crs null: micrometres in the frame of an instrument, which no coordinate reference system knows.
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": None}
    if np.isfinite(bounds).all():
        column["bbox"] = bounds.tolist()
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata({b"geo": json.dumps(geo).encode()}), temporary, compression="zstd")


def _read_polygons(path: Path, ids: NDArray[Any]) -> Polygons:
    import pyarrow.parquet as pq
    import shapely

    if not path.is_file():
        raise InputError(f"{path}: no such file, but {SECTION} has these polygons; {_AGAIN}")
    try:
        table = pq.read_table(path, columns=["cell_id", "geometry"])
        shapes = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read ({said or type(error).__name__}); {_AGAIN}") from None
    if not np.array_equal(table["cell_id"].to_numpy(zero_copy_only=False).astype(str), ids.astype(str)):
        raise InputError(f"{path}: its cells are not those of {SECTION}; {_AGAIN}")
    return np.asarray(shapes, dtype=object)
