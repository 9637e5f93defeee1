"""A Xenium output bundle, whole or in part.

Read from its tables (cells, matrix, boundaries), of which published bundles often have some only: cells.csv.gz and the
matrix, say. Formats of Xenium Onboard Analysis 1 to 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.safe_io import load_json
from celldetr.spatial.affine import PIXEL_UM, read_affine, to_image
from celldetr.spatial.counts import is_whole
from celldetr.spatial.readers.boundaries import one_per_cell, read_boundaries
from celldetr.spatial.readers.common import Progress, ReadOptions, make_cells, places
from celldetr.spatial.readers.tables import (
    CELLS,
    CENTROID,
    MATRIX,
    Matrix,
    read_cells,
    read_matrix,
)
from celldetr.spatial.section import CELL_AREA, NUCLEUS_AREA, Polygons, Section

if TYPE_CHECKING:
    import pandas as pd

EXPERIMENT = "experiment.xenium"
_BOUNDARIES = ("parquet", "csv.gz", "csv")
_AREAS = {"cell_area": CELL_AREA, "nucleus_area": NUCLEUS_AREA}


@dataclass(frozen=True)
class BundleFiles:
    """Which of a bundle's files are there; of several formats the one that is read."""

    folder: Path
    cells: Path
    matrix: Path
    experiment: Path | None
    nuclei: Path | None
    outlines: Path | None


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds any of the files by which a bundle is known."""
    return any((folder / name).exists() for name in (EXPERIMENT, *CELLS, *MATRIX))


def find_files(folder: Path) -> BundleFiles:
    """The files of a bundle.

    Raises:
        InputError: no such folder, or neither cells nor a matrix are in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected the output folder of a Xenium run")

    def first(names: tuple[str, ...]) -> Path | None:
        return next((folder / name for name in names if (folder / name).exists()), None)

    def boundaries(of: str) -> Path | None:
        return first(tuple(f"{of}_boundaries.{ending}" for ending in _BOUNDARIES))

    cells, matrix = first(CELLS), first(MATRIX)
    lacking = [f"one of {', '.join(CELLS)}"] * (cells is None) + [f"one of {', '.join(MATRIX)}"] * (matrix is None)
    if cells is None or matrix is None:
        inside = sorted(path.name for path in folder.iterdir())
        held = f"it holds {', '.join(inside[:8])}{', ...' if len(inside) > 8 else ''}" if inside else "it is empty"
        raise InputError(
            f"{folder}: not a Xenium bundle, {held}; expected {' and '.join(lacking)}, and where it is whole"
            f" {EXPERIMENT}, nucleus_boundaries.parquet and cell_boundaries.parquet"
        )
    return BundleFiles(folder, cells, matrix, first((EXPERIMENT,)), boundaries("nucleus"), boundaries("cell"))


def read_xenium(
    folder: Path, *, name: str = "", options: ReadOptions | None = None, progress: Progress | None = None
) -> Section:
    """Read a bundle, see ``read_section``.

    The centre of a cell is the centroid of its nucleus' polygon (the largest, where it has several), else
    ``x_centroid`` and ``y_centroid``. Where exactly one ``*imagealignment.csv`` of an H&E image lies in the bundle,
    the section has its ``to_image``.

    Raises:
        InputError: it is no bundle, a file cannot be read, or the files do not belong together.
    """
    import pandas as pd
    import shapely

    options, report = options or ReadOptions(), progress or (lambda _: None)
    files = find_files(folder)
    experiment = _experiment(files.experiment)
    cells = read_cells(files.cells)
    matrix, features_left_out = read_matrix(files.matrix).genes()
    if not len(matrix.names):
        raise InputError(
            f"{files.matrix}: none of its features is of type 'Gene Expression' ({features_left_out}); is it the matrix"
            " of a protein run?"
        )
    if not is_whole(matrix.counts):
        raise InputError(f"{files.matrix}: holds numbers that are no counts of transcripts; use the run's own matrix")
    report(0.5)
    row = pd.Index(cells.index).get_indexer(pd.Index(matrix.ids))
    left_out = _left_out(files, cells, matrix, row)
    joined = np.flatnonzero(row >= 0)
    obs, ids = cells.iloc[row[joined]], matrix.ids[joined]
    xy = obs[list(CENTROID)].to_numpy(dtype=np.float64).copy()
    obs = obs.drop(columns=list(CENTROID)).rename(columns=_AREAS)
    polygons, odd = _polygons(files, ids, obs)
    with_nucleus = 0
    if "nuclei" in polygons:
        has = ~(shapely.is_missing(polygons["nuclei"]) | shapely.is_empty(polygons["nuclei"]))
        xy[has] = shapely.get_coordinates(shapely.centroid(polygons["nuclei"][has]))
        with_nucleus = int(has.sum())
    placed, unplaced = places(xy, files.cells, options)
    rows = np.flatnonzero(placed)
    counts = matrix.counts if len(rows) == len(matrix.ids) else matrix.counts[joined[rows]]
    pixel = experiment.get("pixel_size")
    read = (files.experiment, files.cells, files.matrix, files.nuclei, files.outlines)
    source: dict[str, Any] = {
        "format": "xenium",
        "folder": files.folder.resolve().name,
        "files": [path.name for path in read if path is not None],
        "version": str(experiment.get("analysis_sw_version", "unknown")),
        "pixel_um": float(pixel) if isinstance(pixel, int | float) and pixel > 0 else PIXEL_UM,
        "points": {"centroid of the nucleus": with_nucleus, "centroid of the cell": len(joined) - with_nucleus},
        "features_left_out": features_left_out,
        "left_out": left_out | unplaced,
        **({"polygons": odd} if odd else {}),
    }
    image = _alignment(files.folder, source)
    report(1.0)
    return Section(
        name=name or _name(experiment, folder),
        cells=make_cells(counts, ids[rows], matrix.names, xy[rows], obs.iloc[rows], {"gene_ids": matrix.gene_ids}),
        nuclei=polygons["nuclei"][rows] if "nuclei" in polygons else None,
        outlines=polygons["outlines"][rows] if "outlines" in polygons else None,
        to_image=image,
        source=source,
    )


def _left_out(files: BundleFiles, cells: pd.DataFrame, matrix: Matrix, row: NDArray[np.intp]) -> dict[str, int]:
    """Cells that are in one of the two tables only; ``row`` is where each cell of the matrix is in the other, or -1.

    Raises:
        InputError: more than half of the matrix: they do not belong together.
    """
    missing, total = int((row < 0).sum()), len(row)
    if missing * 2 > total:
        raise InputError(
            f"{files.folder}: {missing:,} of the {total:,} cells of {files.matrix.name} ({matrix.ids[row < 0][0]!r},"
            f" say) are not in {files.cells.name} ({cells.index[0]!r}, say); the two files are of different runs or"
            " segmentations"
        )
    left_out = {f"cells of {files.matrix.name} that are not in {files.cells.name}": missing} if missing else {}
    if len(cells) > total - missing:
        left_out[f"cells of {files.cells.name} that are not in {files.matrix.name}"] = len(cells) - total + missing
    return left_out


def _polygons(
    files: BundleFiles, ids: NDArray[np.object_], obs: pd.DataFrame
) -> tuple[dict[str, Polygons], dict[str, dict[str, int]]]:
    """Polygons of nuclei and outlines, where there are any, and what is odd of them; adds areas that ``obs`` lacks."""
    import shapely

    polygons: dict[str, Polygons] = {}
    odd: dict[str, dict[str, int]] = {}
    boundaries = {"nuclei": (files.nuclei, NUCLEUS_AREA), "outlines": (files.outlines, CELL_AREA)}
    for kind, (path, column) in boundaries.items():
        if path is not None:
            shapes, numbers = one_per_cell(*read_boundaries(path), ids)
            polygons[kind] = shapes
            odd |= {kind: numbers} if numbers else {}
            if column not in obs.columns:
                obs[column] = np.where(shapely.is_missing(shapes), np.nan, shapely.area(shapes))
    return polygons, odd


def _experiment(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    values = load_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(values).__name__}; copy it again")
    return values


def _name(experiment: dict[str, Any], folder: Path) -> str:
    names = [str(experiment[key]) for key in ("run_name", "region_name") if experiment.get(key)]
    return " ".join(names) or folder.resolve().name


def _alignment(folder: Path, source: dict[str, Any]) -> NDArray[np.float64] | None:
    """The alignment of the H&E image that lies in the bundle, if it is the only one; ``source`` gets a note."""
    found = sorted(folder.glob("*imagealignment.csv"))
    found = [path for path in found if "if_image" not in path.name]  # of immunofluorescence
    if len(found) != 1:
        if found:
            source["alignment"] = f"not used, there are {len(found)}: {', '.join(path.name for path in found)}"
        return None
    try:
        image = to_image(read_affine(found[0]), "image_to_xenium", source["pixel_um"])
    except InputError as error:  # it may be of no use to the user, who can give another
        source["alignment"] = f"not used: {error}".replace(f"{found[0]}", found[0].name)
        return None
    source["alignment"] = found[0].name
    return image
