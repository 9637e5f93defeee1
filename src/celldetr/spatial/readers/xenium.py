"""A Xenium output bundle, whole or in part.

Read from its tables (cells, matrix, boundaries), of which published bundles often have some only: cells.csv.gz and the
matrix, say. Formats of Xenium Onboard Analysis 1 to 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError, doubt
from celldetr.io.safe_io import is_dir, load_json, shown
from celldetr.spatial.affine import PIXEL_UM, read_affine, to_image
from celldetr.spatial.counts import is_whole
from celldetr.spatial.readers.boundaries import one_per_cell, read_boundaries
from celldetr.spatial.readers.common import ReadOptions, as_text, make_cells, places, split_genes
from celldetr.spatial.readers.tables import CELLS, CENTROID, MATRIX, read_cells, read_matrix
from celldetr.spatial.section import CELL_AREA, NUCLEUS_AREA, Polygons, Section

if TYPE_CHECKING:
    import pandas as pd

EXPERIMENT = "experiment.xenium"
# Kind of polygons -> beginning of the file's name, and column of their area in ``obs``.
# What Xenium Explorer and the public data sets call the alignment of an H&E image; and matrices of something else.
ALIGNMENTS = (
    "*imagealignment.csv", "*_matrix.csv", "matrix.csv", "*alignment*.zip", "*alignment_files/matrix.csv"
)  # fmt: skip
NO_ALIGNMENTS = ("if_image", "feature_matrix")
FAR_UM = 12.0  # between a cell's centre and that of its nucleus or outline, in the median
TOO_MANY = 0.1  # share of the cells that may have more transcripts of genes in the matrix than their table says
BOUNDARIES = {"nuclei": ("nucleus", NUCLEUS_AREA), "outlines": ("cell", CELL_AREA)}


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds what a bundle needs, or says that it is one."""
    tables = all(_first(folder, names) is not None for names in (CELLS, MATRIX))
    return is_dir(folder) and (tables or (folder / EXPERIMENT).exists())


def read_xenium(folder: Path, name: str, options: ReadOptions) -> Section:
    """Read a bundle, see ``read_section``.

    The centre of a cell is the centroid of its nucleus' polygon (the largest, where it has several), else
    ``x_centroid`` and ``y_centroid``. Where exactly one alignment of an H&E image lies in the bundle
    (``ALIGNMENTS``), the section has its ``to_image``.
    """
    import shapely

    cells_file, matrix_file = _first(folder, CELLS), _first(folder, MATRIX)
    if cells_file is None or matrix_file is None:
        inside = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        raise InputError(
            f"{folder}: not a Xenium bundle, it holds {', '.join(inside[:8]) or 'nothing'}; expected one of"
            f" {', '.join(CELLS)} and one of {', '.join(MATRIX)}, and where it is whole {EXPERIMENT},"
            " nucleus_boundaries.parquet and cell_boundaries.parquet"
        )
    experiment = load_json(folder / EXPERIMENT) if (folder / EXPERIMENT).exists() else {}
    table, matrix = read_cells(cells_file), read_matrix(matrix_file)
    gene, features_left_out = split_genes(as_text(matrix.var["feature_types"].to_numpy()))
    if not gene.any():
        raise InputError(
            f"{matrix_file}: none of its features is of type 'Gene Expression' ({features_left_out}); is it the matrix"
            " of a protein run?"
        )
    if not is_whole(matrix.X):
        raise InputError(f"{matrix_file}: holds numbers that are no counts of transcripts; use the run's own matrix")
    row = table.index.get_indexer(matrix.obs_names)
    left_out = _left_out(folder, cells_file.name, matrix_file.name, int((row < 0).sum()), len(row), len(table))
    joined = np.flatnonzero(row >= 0)
    obs, ids = table.iloc[row[joined]], matrix.obs_names.to_numpy(dtype=object)[joined]
    xy = obs[list(CENTROID)].to_numpy(dtype=np.float64).copy()
    obs = obs.drop(columns=list(CENTROID)).rename(columns={"cell_area": CELL_AREA, "nucleus_area": NUCLEUS_AREA})
    counts, genes = matrix.X[:, gene], matrix.var[gene]
    _check_counts(matrix_file, counts[joined], obs)
    polygons, files, odd = _read_polygons(folder, ids, obs)
    _check_polygons(folder, polygons, xy)
    has_nucleus = np.zeros(len(ids), dtype=bool)
    if "nuclei" in polygons:
        has_nucleus = ~shapely.is_missing(polygons["nuclei"])
        xy[has_nucleus] = shapely.get_coordinates(shapely.centroid(polygons["nuclei"][has_nucleus]))
    placed, unplaced = places(xy, cells_file, options)
    pixel = experiment.get("pixel_size")
    if "pixel_size" in experiment and not (isinstance(pixel, int | float) and pixel > 0):
        doubt(f"{folder}: pixel_size {shown(pixel, 20)} is no number above 0; {PIXEL_UM} um is taken, as of Xenium")
    source: dict[str, Any] = {
        "format": "xenium",
        "folder": folder.resolve().name,
        "files": [EXPERIMENT] * bool(experiment) + [cells_file.name, matrix_file.name, *files],
        "version": str(experiment.get("analysis_sw_version", "unknown")),
        "pixel_um": float(pixel) if isinstance(pixel, int | float) and pixel > 0 else PIXEL_UM,
        "points": {
            "centroid of the nucleus": int(has_nucleus.sum()),
            "centroid of the cell": int((~has_nucleus).sum()),
        },
        "features_left_out": features_left_out,
        "left_out": left_out | unplaced,
    }
    if odd:
        source["polygons"] = odd
    image = _alignment(folder, source)
    if placed.sum() < len(row):
        counts = counts[joined[placed]]
    own_name = " ".join(str(experiment[key]) for key in ("run_name", "region_name") if experiment.get(key))
    return Section(
        name=name or own_name or folder.resolve().name,
        cells=make_cells(
            counts, ids[placed], as_text(genes.index), as_text(genes["gene_ids"]), xy[placed], obs[placed]
        ),
        to_image=image,
        source=source,
        **{kind: shapes[placed] for kind, shapes in polygons.items()},
    )


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _left_out(folder: Path, cells: str, matrix: str, missing: int, total: int, in_cells: int) -> dict[str, int]:
    """Cells that are in one of the two tables only.

    Raises:
        InputError: more than half of the matrix: they do not belong together.
    """
    if missing * 2 > total:
        raise InputError(
            f"{folder}: {missing:,} of the {total:,} cells of {matrix} are not in {cells}; the two files are of"
            " different runs or segmentations"
        )
    numbers = {
        f"cells of {matrix} that are not in {cells}": missing,
        f"cells of {cells} that are not in {matrix}": in_cells - total + missing,
    }
    return {words: number for words, number in numbers.items() if number}


def _read_polygons(
    folder: Path, ids: NDArray[np.object_], obs: pd.DataFrame
) -> tuple[dict[str, Polygons], list[str], dict[str, dict[str, int]]]:
    """Polygons of nuclei and outlines where there are any, their files, what is odd; adds areas that ``obs`` lacks."""
    import shapely

    polygons: dict[str, Polygons] = {}
    files: list[str] = []
    odd: dict[str, dict[str, int]] = {}
    for kind, (beginning, column) in BOUNDARIES.items():
        path = _first(folder, [f"{beginning}_boundaries.{ending}" for ending in ("parquet", "csv.gz", "csv")])
        if path is None:
            continue
        owners, rings = read_boundaries(path)
        shapes, numbers = one_per_cell(owners, rings, ids)
        if numbers.get("foreign", 0) * 2 > len(owners):
            raise InputError(
                f"{path}: {numbers['foreign']:,} of its {len(owners):,} polygons are of no cell of the bundle, whose "
                f"cells are called {str(ids[0])!r} or the like, theirs {str(owners[0])!r}; the files are of different "
                "runs or segmentations; move this one away to go on without it"
            )
        polygons[kind] = shapes
        files.append(path.name)
        if numbers:
            odd[kind] = numbers
        if column not in obs.columns:
            obs[column] = np.where(shapely.is_missing(shapes), np.nan, shapely.area(shapes))
    return polygons, files, odd


def _check_counts(path: Path, counts: Any, obs: pd.DataFrame) -> None:
    """Refuse a matrix (N, G) with more transcripts than the table of the N cells, which may have been cut to fewer."""
    if "transcript_counts" in obs.columns:
        more = int((np.asarray(counts.sum(axis=1)).ravel() > obs["transcript_counts"].to_numpy()).sum())
        if more > TOO_MANY * len(obs):
            raise InputError(
                f"{path}: has more transcripts than the table of cells says for {more:,} of {len(obs):,} cells; its"
                " rows are in another order, or it is of another run; use the run's own matrix"
            )


def _check_polygons(folder: Path, polygons: dict[str, Polygons], xy: NDArray[np.float64]) -> None:
    """Refuse polygons that lie elsewhere than the centroids ``xy`` (N, 2) of their cells, um."""
    import shapely

    for kind, shapes in polygons.items():
        there = ~shapely.is_missing(shapes)
        apart = np.hypot(*(shapely.get_coordinates(shapely.centroid(shapes[there])) - xy[there]).T)
        if len(apart) and (median := float(np.median(apart))) > FAR_UM:
            raise InputError(
                f"{folder}: the {kind} lie {median:.0f} um from the centres of their cells in the median; are their"
                " vertices x, y in micrometres, and the ids those of this run? Take the files of one run, or move"
                f" {BOUNDARIES[kind][0]}_boundaries away to go on without them"
            )


def _alignment(folder: Path, source: dict[str, Any]) -> NDArray[np.float64] | None:
    """The alignment of the H&E image that lies in the bundle, if it is the only one; ``source`` gets a note."""
    found = {path for pattern in ALIGNMENTS for path in folder.glob(pattern)}
    files = [path for path in sorted(found) if not any(name in path.name for name in NO_ALIGNMENTS)]
    if len(files) != 1:
        if files:
            names = ", ".join(str(path.relative_to(folder)) for path in files)
            source["alignment"] = f"not used, there are {len(files)}: {names}"
        return None
    try:
        image = to_image(read_affine(files[0]), "image_to_xenium", source["pixel_um"])
    except InputError as error:  # it may be of no use to the user, who can give another
        source["alignment"] = f"not used: {error}".replace(f"{files[0]}", files[0].name)
        return None
    source["alignment"] = files[0].name
    return image
