"""A Xenium output bundle, whole or in part.

A whole one is read by spatialdata-io, which knows the versions of the format. It insists on experiment.xenium,
cells.zarr.zip, cells.parquet and cell_feature_matrix.h5; what people keep or publish is often less (cells.csv.gz and
the matrix), and such bundles are read by our own readers of the tables. Both end in the same ``_Parts``, which the
rest treats alike, and ``Section.source`` says which it was, and why.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.safe_io import load_json
from celldetr.spatial.affine import PIXEL_UM, read_affine, to_image
from celldetr.spatial.counts import is_whole
from celldetr.spatial.readers.boundaries import one_per_cell, read_boundaries
from celldetr.spatial.readers.common import Progress, ReadOptions, as_text, check_ids, make_cells, places
from celldetr.spatial.readers.tables import (
    CELL_ID,
    CELLS,
    CENTROID,
    MATRIX,
    Matrix,
    check_zarr_zip,
    feature_types,
    read_cells,
    read_matrix,
)
from celldetr.spatial.section import CELL_AREA, NUCLEUS_AREA, Polygons, Section

if TYPE_CHECKING:
    import anndata
    import pandas as pd

EXPERIMENT, ZARR = "experiment.xenium", "cells.zarr.zip"
_BOUNDARIES = ("parquet", "csv.gz", "csv")
_AREAS = {"cell_area": CELL_AREA, "nucleus_area": NUCLEUS_AREA}
Rings = tuple[NDArray[np.object_], Polygons]  # ids of the cells, and polygons


@dataclass(frozen=True)
class BundleFiles:
    """Which of a bundle's files are there; of several formats the one that is read."""

    folder: Path
    cells: Path
    matrix: Path
    experiment: Path | None
    zarr: Path | None
    nuclei: Path | None
    outlines: Path | None

    def lacking(self) -> list[str]:
        """What spatialdata-io would insist on and is not there."""
        named = {EXPERIMENT: self.experiment, ZARR: self.zarr}
        found = [name for name, path in named.items() if path is None]
        found += [CELLS[0]] * (self.cells.name != CELLS[0]) + [MATRIX[0]] * (self.matrix.name != MATRIX[0])
        # One in CSV is not seen by it, and the section would go without.
        others = [path for path in (self.nuclei, self.outlines) if path and path.suffix != ".parquet"]
        return found + [f"{path.name.split('.')[0]}.parquet" for path in others]


@dataclass
class _Parts:
    cells: pd.DataFrame  # indexed by id
    matrix: Matrix  # genes only
    features_left_out: dict[str, int]
    nuclei: Rings | None
    outlines: Rings | None
    source: dict[str, Any] = field(default_factory=dict)


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds any of the files by which a bundle is known."""
    return any((folder / name).exists() for name in (EXPERIMENT, ZARR, *CELLS, *MATRIX))


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
            f" {EXPERIMENT}, {ZARR}, nucleus_boundaries.parquet and cell_boundaries.parquet"
        )
    return BundleFiles(
        folder, cells, matrix, first((EXPERIMENT,)), first((ZARR,)), boundaries("nucleus"), boundaries("cell")
    )


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
    options, tick = options or ReadOptions(), progress or (lambda _: None)
    files = find_files(folder)
    experiment = _experiment(files.experiment)
    lacking = files.lacking()
    why = f"spatialdata-io needs {', '.join(lacking)}" if lacking else ""
    parts = None
    if options.reader == "spatialdata-io" and lacking:
        raise InputError(f"{folder}: has no {', '.join(lacking)}, which {why.split()[0]} needs; use reader='auto'")
    if options.reader != "plain" and not lacking:
        try:
            parts = _by_spatialdata_io(files)
        except MemoryError:
            raise
        # It asserts, and meets damaged files in the ways of five libraries; our own reading names what is wrong.
        except Exception as error:
            why = f"spatialdata-io: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if options.reader == "spatialdata-io":
                raise InputError(f"{folder}: {why}; try reader='plain'") from None
    tick(0.3)
    if parts is None:
        parts = _plain(files, why or "asked for")
    tick(0.7)
    section = _section(files, parts, name or _name(experiment, folder), experiment, options)
    tick(1.0)
    return section


def _experiment(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    values = load_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(values).__name__}; copy it again")
    return values


def _name(experiment: dict[str, Any], folder: Path) -> str:
    said = [str(experiment[key]) for key in ("run_name", "region_name") if experiment.get(key)]
    return " ".join(said) or folder.resolve().name


def _by_spatialdata_io(files: BundleFiles) -> _Parts:
    """Read with spatialdata-io; whatever it raises goes through."""
    import spatialdata_io

    assert files.zarr is not None
    check_zarr_zip(files.zarr)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        data = spatialdata_io.xenium(
            files.folder,
            cells_boundaries=files.outlines is not None,
            nucleus_boundaries=files.nuclei is not None,
            cells_as_circles=False,
            cells_labels=False,
            nucleus_labels=False,
            transcripts=False,
            morphology_mip=False,
            morphology_focus=False,
            aligned_images=False,
            cells_table=True,
            gex_only=True,
        )
    table: anndata.AnnData = data.tables["table"]
    ids = as_text(table.obs_names.to_numpy())
    # It joins the matrix and the cells by position, and compares a sample of 1,000 ids.
    if not np.array_equal(as_text(table.obs[CELL_ID].to_numpy()), ids):
        raise InputError("the cells are not in the order of the matrix")
    check_ids(ids, files.matrix)
    obs = table.obs.drop(columns=[CELL_ID, "region"], errors="ignore").set_axis(ids, axis=0)
    for axis, column in enumerate(CENTROID):
        obs[column] = np.asarray(table.obsm["spatial"], dtype=np.float64)[:, axis]
    var = table.var
    matrix = Matrix(
        ids,
        table.X.tocsr(),
        as_text(table.var_names.to_numpy()),
        as_text(var["gene_ids"].to_numpy()),
        as_text(var["feature_types"].to_numpy()),
    )
    types, numbers = np.unique(feature_types(files.matrix).astype(str), return_counts=True)
    left_out = dict(zip(types.tolist(), numbers.tolist(), strict=True))
    left_out.pop("Gene Expression", None)

    source: dict[str, Any] = {"reader": f"spatialdata-io {spatialdata_io.__version__}"}

    def rings(element: str, path: Path | None) -> Rings | None:
        if path is None:
            return None
        if element not in data.shapes:  # nuclei of early builds of 2.0, which it leaves out
            source[f"{element}_reader"] = "celldetr"
            return read_boundaries(path)
        frame = data.shapes[element]
        owners = frame[CELL_ID] if CELL_ID in frame.columns else frame.index
        return as_text(np.asarray(owners)), np.asarray(frame.geometry.array, dtype=object)

    nuclei = rings("nucleus_boundaries", files.nuclei)
    outlines = rings("cell_boundaries", files.outlines)
    said = sorted({" ".join(str(warning.message).split())[:200] for warning in caught if _is_its(warning)})
    return _Parts(obs, matrix, left_out, nuclei, outlines, source | ({"warnings": said} if said else {}))


def _is_its(warning: warnings.WarningMessage) -> bool:
    return issubclass(warning.category, UserWarning) and "spatialdata_io" in warning.filename


def _plain(files: BundleFiles, why: str) -> _Parts:
    cells = read_cells(files.cells)
    matrix, left_out = read_matrix(files.matrix).genes()
    return _Parts(
        cells,
        matrix,
        left_out,
        None if files.nuclei is None else read_boundaries(files.nuclei),
        None if files.outlines is None else read_boundaries(files.outlines),
        {"reader": "celldetr", "why": why},
    )


def _section(files: BundleFiles, parts: _Parts, name: str, experiment: dict[str, Any], options: ReadOptions) -> Section:
    import pandas as pd
    import shapely

    matrix, cells = parts.matrix, parts.cells
    if not len(matrix.names):
        raise InputError(
            f"{files.matrix}: none of its features is of type 'Gene Expression' ({parts.features_left_out}); is it the"
            " matrix of a protein run?"
        )
    if not is_whole(matrix.counts):
        raise InputError(f"{files.matrix}: holds numbers that are no counts of transcripts; use the run's own matrix")
    row = pd.Index(cells.index).get_indexer(pd.Index(matrix.ids))
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
    keep = np.flatnonzero(row >= 0)
    obs, ids = cells.iloc[row[keep]], matrix.ids[keep]
    xy = obs[list(CENTROID)].to_numpy(dtype=np.float64).copy()

    polygons: dict[str, Polygons | None] = {}
    notes: dict[str, dict[str, int]] = {}
    for kind, rings in (("nuclei", parts.nuclei), ("outlines", parts.outlines)):
        polygons[kind] = None
        if rings is not None:
            polygons[kind], numbers = one_per_cell(*rings, ids)
            notes |= {kind: numbers} if numbers else {}
    nuclei = polygons["nuclei"]
    with_nucleus = 0
    if nuclei is not None:
        centres = shapely.get_coordinates(shapely.centroid(nuclei))  # none of None, and of empty ones
        has = ~(shapely.is_missing(nuclei) | shapely.is_empty(nuclei))
        xy[has], with_nucleus = centres, int(has.sum())
    placed, unplaced = places(xy, files.cells, options)
    left_out |= unplaced
    obs = obs.drop(columns=list(CENTROID)).rename(columns=_AREAS)
    for kind, column in (("nuclei", NUCLEUS_AREA), ("outlines", CELL_AREA)):
        shapes = polygons[kind]
        if column not in obs.columns and shapes is not None:
            obs[column] = np.where(shapely.is_missing(shapes), np.nan, shapely.area(shapes))
    kept = np.flatnonzero(placed)
    counts = matrix.counts if len(keep) == total and placed.all() else matrix.counts[keep[kept]]
    pixel = experiment.get("pixel_size")
    read = (files.experiment, files.cells, files.matrix, files.nuclei, files.outlines)
    source: dict[str, Any] = {
        "format": "xenium",
        "folder": files.folder.resolve().name,
        "files": [path.name for path in read if path is not None],
        **parts.source,
        "version": str(experiment.get("analysis_sw_version", "unknown")),
        "pixel_um": float(pixel) if isinstance(pixel, int | float) and pixel > 0 else PIXEL_UM,
        "points": {"centroid of the nucleus": with_nucleus, "centroid of the cell": len(keep) - with_nucleus},
        "features_left_out": parts.features_left_out,
        "left_out": left_out,
        **({"polygons": notes} if notes else {}),
    }
    image = _alignment(files.folder, source)
    return Section(
        name=name,
        cells=make_cells(counts, ids[kept], matrix.names, xy[kept], obs.iloc[kept], {"gene_ids": matrix.gene_ids}),
        nuclei=None if nuclei is None else nuclei[kept],
        outlines=None if polygons["outlines"] is None else polygons["outlines"][kept],
        to_image=image,
        source=source,
    )


def _alignment(folder: Path, source: dict[str, Any]) -> NDArray[np.float64] | None:
    """The alignment of the H&E image that lies in the bundle, if it is the only one; ``source`` says what was done."""
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
