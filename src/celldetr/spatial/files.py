"""Results of the steps on disk, in ``SET/steps``: checkpoints that pandas, geopandas and scanpy open.

    section.h5ad     step 1  ``Section.cells``; polygons in nuclei_um.parquet and outlines_um.parquet (GeoParquet)
    quality.parquet  step 2  table ``QUALITY``
    types.parquet    step 3  table ``TYPES``; types_fine.parquet: before the hierarchy; expression.parquet: means
    nuclei.parquet   step 4  boxes (xmin, ymin, xmax, ymax: level-0 px), score, geometry where there are polygons
    alignment.json   step 5  both affines, how they fit, numbers of the pairs; pairs.parquet: table ``PAIRS``

The patch set of step 6 is in ``SET`` itself. A file is written whole or not at all. Reading raises ``InputError`` where
a file is missing, damaged or lacks a column, writing where the place cannot be written to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from celldetr.errors import InputError, optional
from celldetr.io.files import output_errors, replacing
from celldetr.spatial.readers.common import reading
from celldetr.spatial.section import Nuclei, Polygons, Section

if TYPE_CHECKING:
    import pandas as pd

SECTION = "section.h5ad"
POLYGONS = {"nuclei": "nuclei_um.parquet", "outlines": "outlines_um.parquet"}
QUALITY_FILE, TYPES_FILE, FINE_FILE = "quality.parquet", "types.parquet", "types_fine.parquet"
EXPRESSION_FILE = "expression.parquet"
NUCLEI_FILE, PAIRS_FILE, ALIGNMENT_FILE = "nuclei.parquet", "pairs.parquet", "alignment.json"
CORNERS = ["xmin", "ymin", "xmax", "ymax"]
_ABOUT = "celldetr_section"  # in ``uns``: name, affine and provenance of the section, as JSON


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet; one with a geometry as GeoParquet."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def read_table(path: Path, columns: Collection[str] = ()) -> pd.DataFrame:
    """Read a table from Parquet, or from CSV where the file is not called so; it must have the ``columns``."""
    import pandas as pd

    with reading(path):
        is_parquet = path.suffix.lower() in (".parquet", ".pq")
        table = pd.read_parquet(path) if is_parquet else pd.read_csv(path)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]!r}; run the step that writes it again")
    return table


def write_section(section: Section, folder: Path) -> None:
    """Write a section to a folder, which is made if need be; what it held of another section is replaced.

    The h5ad is written last and removed first, so a folder with one has all of the section.
    """
    import anndata

    geopandas = optional("geopandas", "spatial")

    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file in (SECTION, *POLYGONS.values()):
            (folder / file).unlink(missing_ok=True)
    for kind, shapes in section.polygons.items():
        frame = geopandas.GeoDataFrame({"cell_id": section.cell_ids}, geometry=list(shapes))
        write_table(frame, folder / POLYGONS[kind])
    about = {
        "name": section.name,
        "to_image": None if section.to_image is None else section.to_image.tolist(),
        "source": section.source,
        "polygons": list(section.polygons),
    }
    cells = anndata.AnnData(section.cells.X, section.cells.obs, section.cells.var, uns={_ABOUT: json.dumps(about)})
    with replacing(folder / SECTION) as temporary:
        cells.write_h5ad(temporary, compression="lzf", convert_strings_to_categoricals=False)


def read_section_files(folder: Path) -> Section:
    """Read back what ``write_section`` wrote."""
    import anndata

    geopandas = optional("geopandas", "spatial")

    with reading(folder / SECTION):
        cells = anndata.read_h5ad(folder / SECTION)
        about = json.loads(cells.uns.pop(_ABOUT))
    polygons: dict[str, Polygons] = {}
    for kind in about["polygons"]:
        file = folder / POLYGONS[kind]
        with reading(file):
            polygons[kind] = geopandas.read_parquet(file).geometry.to_numpy().astype(object)
    to_image = None if about["to_image"] is None else np.array(about["to_image"], dtype=np.float64)
    return Section(about["name"], cells, to_image=to_image, source=about["source"], **polygons)


def write_nuclei(nuclei: Nuclei, path: Path) -> None:
    """Write ``nuclei.parquet``, which is GeoParquet where there are polygons."""
    import pandas as pd

    geopandas = optional("geopandas", "spatial")

    table = pd.DataFrame(nuclei.boxes, columns=CORNERS).assign(score=nuclei.scores)
    if nuclei.polygons is not None:
        table = geopandas.GeoDataFrame(table, geometry=list(nuclei.polygons))
    write_table(table, path)


def read_nuclei(path: Path) -> Nuclei:
    """Read back what ``write_nuclei`` wrote, without the provenance."""
    import shapely

    table = read_table(path, (*CORNERS, "score"))
    polygons = None
    if "geometry" in table.columns:
        with reading(path):
            polygons = shapely.from_wkb(table["geometry"].to_numpy(dtype=object))
    return Nuclei(table[CORNERS].to_numpy(np.float32), table["score"].to_numpy(np.float32), polygons)


def stamp(path: Path) -> list[Any]:
    """Fingerprint of a file or of the files in a folder: absolute path, bytes, and a hash of names and times."""
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path] if path.exists() else []
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]
    return [str(path.absolute()), sum(size for _, size, _ in stats), digest]
