"""Step 4: the nuclei of the H&E image, by a checkpoint or from a file, and ``nuclei.parquet``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from celldetr.cells.reader import read_cells
from celldetr.cells.schema import provenance_of, table_metadata
from celldetr.errors import InputError
from celldetr.io.files import replacing
from celldetr.io.parquet import parquet_errors
from celldetr.spatial.coordinates import Mpp, pixel_scale
from celldetr.spatial.schemas import NUCLEI
from celldetr.spatial.section import Nuclei, Polygons
from celldetr.spatial.tables import read_columns

if TYPE_CHECKING:
    from celldetr.api import Model

MOST_OUTSIDE = 0.01  # share of nuclei beyond the image: a detector may place some over its edge
PLAUSIBLE_UM = (2.0, 40.0)  # median size of nuclei: beyond, their pixels are not those of level 0
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def nuclei_from_model(
    image: Path | str,
    out: Path | str,
    model: Model | str | Path | None = None,
    *,
    mpp: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> Nuclei:
    """Find nuclei as ``celldetr predict`` does, into ``out/<image>/``. What an interrupted run has found is kept.

    Args:
        image: the H&E.
        out: folder for the run's folder.
        model: a loaded model, or what ``load_model`` takes.
        mpp: micrometres per pixel of level 0, instead of what the file says.
        progress: told the share of tiles that is done.

    Raises:
        InputError: what ``celldetr.api.predict_slide`` raises, or no nucleus was found.
    """
    from celldetr.api import predict_slide

    summary = predict_slide(
        image,
        out,
        model=model,
        mpp=mpp,
        resume=True,
        progress=None if progress is None else lambda at: progress(at.tiles / max(at.tiles_total, 1)),
    )
    return nuclei_from_cells(summary.directory)


def nuclei_from_cells(cells: Path | str) -> Nuclei:
    """The nuclei of a finished run of ``celldetr predict``: boxes and scores.

    Args:
        cells: ``cells.parquet``, or the folder of the run.

    Raises:
        InputError: no such table, an unfinished run, or no nuclei in it.
    """
    table = read_cells(cells, ["cell_id", "x_px", "y_px", "w_px", "h_px", "score"])
    if not len(table):
        raise InputError(f"{cells}: no nucleus was found; is it an H&E, with the right mpp? See its overview.png")
    centre, size = table[["x_px", "y_px"]].to_numpy(np.float64), table[["w_px", "h_px"]].to_numpy(np.float64)
    boxes = np.hstack([centre - size / 2, centre + size / 2]).astype(np.float32)
    source = {"format": "celldetr", "run": table.attrs.get("celldetr", {})}
    return Nuclei(boxes, table["score"].to_numpy(np.float32), None, source)


def check_nuclei(nuclei: Nuclei, width: int, height: int, mpp: Mpp) -> None:
    """Refuse nuclei that cannot be of an image.

    Args:
        nuclei: any.
        width, height: of the image, level-0 pixels.
        mpp: of level 0.

    Raises:
        InputError: no nuclei, more than one in a hundred outside, or of a size that no nucleus has.
    """
    if not len(nuclei):
        raise InputError("there are no nuclei; check the image, or the file that should have them")
    x, y = nuclei.points.T
    outside = (x < 0) | (y < 0) | (x > width) | (y > height)
    if outside.mean() > MOST_OUTSIDE:
        raise InputError(
            f"{outside.sum():,} of {len(nuclei):,} nuclei lie outside of the image of {width:,} x {height:,} px (they "
            f"reach x {x.max():,.0f}, y {y.max():,.0f}): they are of another slide, or not in level-0 pixels"
        )
    size = np.sqrt(np.prod((nuclei.boxes[:, 2:] - nuclei.boxes[:, :2]) * pixel_scale(mpp), axis=1))
    median = float(np.median(size))
    if not PLAUSIBLE_UM[0] <= median <= PLAUSIBLE_UM[1]:
        raise InputError(
            f"nuclei of {median:.2g} um in the median: expected {PLAUSIBLE_UM[0]:g} to {PLAUSIBLE_UM[1]:g}; they are "
            "not in level-0 pixels, or the mpp of the image is wrong"
        )


def keep_nuclei(nuclei: Nuclei, path: Path) -> None:
    """Write ``nuclei.parquet``, which is GeoParquet where there are polygons.

    Raises:
        InputError: the disk is full, or the place cannot be written to.
    """
    columns: dict[str, Any] = {name: nuclei.boxes[:, k] for k, name in enumerate(CORNERS)}
    columns["score"] = nuclei.scores
    if nuclei.polygons is None:
        columns["geometry"] = pa.nulls(len(nuclei), pa.binary())
    else:
        columns["geometry"] = pa.array(shapely.to_wkb(nuclei.polygons, flavor="iso"), pa.binary())
    provenance = {"polygons": nuclei.polygons is not None, "source": nuclei.source}
    bounds = None
    if nuclei.polygons is not None and not shapely.is_missing(nuclei.polygons).all():
        bounds = tuple(shapely.total_bounds(nuclei.polygons).tolist())
    metadata = table_metadata(provenance, None)
    if bounds is not None:  # rings of others go either way, so that no orientation is claimed
        geo = json.loads(metadata[b"geo"])
        geo["columns"]["geometry"] |= {"geometry_types": ["Polygon"], "bbox": list(bounds)}
        metadata[b"geo"] = json.dumps(geo).encode()
    table = pa.table(columns, schema=_SCHEMA).replace_schema_metadata(metadata)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


_SCHEMA = pa.schema([*((name, pa.float32()) for name in (*CORNERS, "score")), ("geometry", pa.binary())])


def read_nuclei(path: Path) -> Nuclei:
    """The inverse of ``keep_nuclei``.

    Raises:
        InputError: no such file, damaged, or not such a table.
    """
    table = read_columns(path, NUCLEI, "nuclei", "nuclei")
    with parquet_errors(path):
        boxes = np.stack([table[name].to_numpy() for name in CORNERS], axis=1).astype(np.float32)
        scores = table["score"].to_numpy().astype(np.float32)
        about = provenance_of(table.schema)
        polygons: Polygons | None = None
        if about.get("polygons", table["geometry"].null_count < len(table)):
            polygons = _polygons(table["geometry"].to_pylist(), path)
    source = about.get("source")
    return Nuclei(boxes, scores, polygons, source if isinstance(source, dict) else {})


def _polygons(texts: list[bytes | None], path: Path) -> Polygons:
    try:
        return shapely.from_wkb(np.array(texts, dtype=object))
    except (shapely.errors.GEOSException, TypeError) as error:
        raise InputError(f"{path}: geometry is not WKB ({error}); run the step 'nuclei' again") from None
