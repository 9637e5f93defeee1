"""Read the cells of a file, whatever program wrote it: which reader, by the name of the file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from celldetr.cells.reader import open_table
from celldetr.cells.schema import BOX
from celldetr.data.masks import number_nuclei
from celldetr.data.readers.columns import plain
from celldetr.data.readers.instance_maps import JOINED, SEVERAL, check_map, read_map
from celldetr.data.readers.points_csv import is_called, read_points
from celldetr.data.readers.qupath_objects import PACKED
from celldetr.errors import InputError, doubt
from celldetr.given.cells import NOT_UNIQUE, GivenCells, text_or_whole
from celldetr.given.json_files import json_cells
from celldetr.io.annotation_json import annotation_format, stated_size
from celldetr.io.left_out import LeftOut
from celldetr.io.safe_io import is_dir, is_file
from celldetr.io.tables import read_table
from celldetr.slide.base_reader import SlideReader

TABLE = ".parquet"
TEXTS = (".csv", ".tsv", ".txt")
MAPS = (".tif", ".tiff", ".png", ".npy")
KNOWN = (
    f"GeoJSON or JSON ({', '.join(PACKED)}), a table ({', '.join(TEXTS)}), a label image ({', '.join(MAPS)}), or the"
    f" cells.parquet of celldetr ({TABLE}) or its folder"
)
ID_COLUMNS = ("cellid", "objectid", "nucleusid", "id", "objectnumber")  # names as of ``columns.plain``
SAME_SCALE = 0.01  # share by which the scales of a label image along x and y may differ
BOX_CORNERS = 5  # coordinates of a polygon that is a box


def read_given(path: Path, reader: SlideReader, origin: str = "bounds") -> GivenCells:
    """Read the cells of a file, in its order.

    Args:
        path: GeoJSON of QuPath; JSON of CellViT, HoVer-Net, LabelMe; a table of centres or boxes (CSV); a label image
            (a number for each nucleus) of the whole slide; cells.parquet of celldetr or the folder it is in.
        reader: the slide that they are of.
        origin: where coordinates of GeoJSON count from, ``bounds`` (the scanned part, as in QuPath) or ``slide``;
            those of other files count from the corner of level 0.

    Raises:
        InputError: no such file, a kind of file that is not known, or one that cannot be read.
    """
    if not (is_file(path) or is_dir(path)):
        raise InputError(f"{path}: no such file; expected cells as {KNOWN}")
    name = path.name.lower()
    mpp = (reader.mpp_x, reader.mpp_y)
    if is_dir(path) or name.endswith(TABLE):
        given = _table_cells(path, reader)
    elif name.endswith(PACKED):
        from_bounds = origin == "bounds" and reader.bounds is not None and annotation_format(path) == "GeoJSON"
        corner = reader.bounds[:2] if from_bounds and reader.bounds is not None else (0.0, 0.0)
        if (size := stated_size(path)) not in (None, (reader.width, reader.height)):
            raise InputError(
                f"{path}: is of an image of {size} px (width, height), but the slide has"
                f" {(reader.width, reader.height)}; scale its points to level 0 of the slide"
            )
        given = json_cells(path, mpp, corner, repeated=True)
    elif name.endswith(TEXTS):
        given = _csv_cells(path, reader)
    elif name.endswith(MAPS):
        given = _map_cells(path, reader)
    else:
        raise InputError(f"{path}: expected cells as {KNOWN}")
    given.source.update(file=path.name, cells=len(given), sha256=_sha256(path))
    return given


def _sha256(path: Path) -> str:
    with (open_table(path).path if is_dir(path) else path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _table_cells(path: Path, reader: SlideReader) -> GivenCells:
    """Cells of a table of ``celldetr predict`` or ``embed``, with their outlines."""
    table = open_table(path, clusters=False)
    known, own = (table.run.get("width"), table.run.get("height")), (reader.width, reader.height)
    if known not in (own, (None, None)):
        raise InputError(f"{path}: has the cells of {table.slide}, of {known} px, but {reader.file} has {own}")
    outlined = "geometry" in table.columns
    cells = table.read(["cell_id", "score", *BOX, *(["geometry"] if outlined else [])])
    x, y, w, h = (cells[name].to_numpy().astype(np.float64) for name in BOX)
    return GivenCells(
        np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1),
        cells["cell_id"].to_numpy(),
        cells["score"].to_numpy().astype(np.float32),
        _areas(cells["geometry"]) if outlined else None,
        source={"format": "celldetr"},
    )


def _csv_cells(path: Path, reader: SlideReader) -> GivenCells:
    """Cells of a table: boxes where it has corners, or ``w_px`` and ``h_px`` as celldetr writes them; else points."""
    points, table = read_points(path, label=False), read_table(path)
    names = [plain(name) for name in table.header]
    if points.image and reader.file and not is_called(Path(reader.file), points.image):
        doubt(f"{path}: says that its cells are of {points.image!r}, and is read as those of {reader.file}")
    mpp = (reader.mpp_x, reader.mpp_y)
    shapes = points.shapes / np.tile(mpp, points.shapes.shape[1] // 2) if points.micrometres else points.shapes
    only_points = shapes.shape[1] == 2
    if only_points and {"wpx", "hpx"} <= set(names) and not points.micrometres:
        half = np.stack([table.numbers(names.index(name)) for name in ("wpx", "hpx")], axis=1) / 2
        shapes, only_points = np.concatenate([shapes - half, shapes + half], axis=1), False
    ids: NDArray[Any] = np.arange(len(shapes))
    if found := [names.index(name) for name in ID_COLUMNS if name in names]:
        texts = [cells[found[0]] for _, cells in table.rows]
        if len(set(texts)) == len(texts) and all(texts):
            ids = text_or_whole(texts)
        else:
            doubt(f"{path}: {NOT_UNIQUE}")
    boxes = np.tile(shapes, 2) if only_points else shapes
    return GivenCells(boxes, ids, np.ones(len(boxes), np.float32), None, only_points, {"format": "CSV"})


def _map_cells(path: Path, reader: SlideReader) -> GivenCells:
    """Nuclei of a label image of the whole slide, at its size or smaller in proportion."""
    instances = read_map(path)
    height, width = instances.shape
    scale = np.array([reader.width / width, reader.height / height])
    if abs(scale[0] / scale[1] - 1) > SAME_SCALE:
        raise InputError(
            f"{path}: a label image of {width} x {height} px, but the slide has {reader.width} x {reader.height};"
            " expected one of the whole slide, at its size or smaller in proportion"
        )
    if (scale != 1).any():
        doubt(f"{path}: is of {width} x {height} px and taken for the whole slide, {scale[0]:.4g} times as large")
    joined = LeftOut(path, JOINED)
    for number in check_map(instances, path, reader.mpp * float(scale.mean())):
        joined.add(SEVERAL, str(number))
    joined.tell()
    numbers, masks = number_nuclei(instances)
    boxes, _ = masks.extents()
    areas = shapely.polygons(masks.outlines(boxes) * scale)
    corners = boxes.astype(np.float64) * np.tile(scale, 2)
    return GivenCells(corners, numbers, np.ones(len(boxes), np.float32), areas, source={"format": "label image"})


def _areas(geometry: pa.ChunkedArray) -> NDArray[np.object_] | None:
    """Outlines of a table; None for those that are boxes."""
    areas: NDArray[Any] = shapely.from_wkb(geometry.to_numpy())
    areas[shapely.get_num_coordinates(areas) == BOX_CORNERS] = None
    return None if shapely.is_missing(areas).all() else areas
