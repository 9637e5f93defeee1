"""Nuclei from files of other programs: QuPath's GeoJSON, and what CellViT writes.

CellViT (Hoerst et al., 2024; CellViT++ alike) writes ``cells.json`` (contours), ``cell_detection.json`` (boxes only)
and both as GeoJSON, one MultiPolygon or MultiPoint a type. In JSON, ``bbox`` is [[row, column], [row, column]] while
``contour`` is (x, y); all in pixels of full resolution.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.data.readers.qupath_objects import REGIONS
from celldetr.errors import InputError
from celldetr.io.geojson import LARGEST, NOT_CELLS, Feature, read_features
from celldetr.io.json_items import read_items
from celldetr.io.safe_io import shown
from celldetr.spatial.affine import Floats, Mpp, pixel_scale
from celldetr.spatial.section import Nuclei, Polygons

SUFFIXES = (".geojson", ".geojson.gz", ".json", ".json.gz")
CELLVIT = "cells"  # key of the list of cells in CellViT's JSON
POINT_UM = 7.0  # diameter that a point stands for: about that of a lymphocyte's nucleus


class _Object(NamedTuple):
    """An object of a file: a nucleus by its outline or by a box, an annotation that may be either, or a region."""

    kind: Literal["outline", "box", "annotation", "region"]
    area: shapely.Geometry
    score: float = 1.0


def nuclei_from_file(path: Path | str, mpp: Mpp, origin: tuple[float, float] = (0.0, 0.0)) -> Nuclei:
    """Read nuclei of QuPath (``.geojson``, ``.geojson.gz``) or CellViT (``.json``, ``.geojson``).

    Of a QuPath cell its nucleus is taken if it has one. Annotations count where there are no detections and cells;
    regions (by class, or because several others lie in them) are left out. A point stands for a nucleus of
    ``POINT_UM`` um without a polygon, and pairs by distance only.

    Args:
        path: the file.
        mpp: micrometres per level-0 pixel of the image, for points.
        origin: level-0 pixel that the file's coordinates count from: the corner of ``reader.bounds`` for QuPath's
            coordinates of a slide that has such.
    """
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(
            f"{path}: expected nuclei as {', '.join(SUFFIXES)} (of CellViT without --compression), or the cells.parquet"
            " of celldetr predict"
        )
    key, _ = next(read_items(path, "JSON"), (None, None))
    objects: list[_Object] = []
    if key == CELLVIT:
        for number, (_, value) in enumerate(read_items(path, "JSON"), 1):
            objects.append(_cellvit_object(value, f"{path}: cell {number}"))
    else:
        half = POINT_UM / 2 / pixel_scale(mpp)
        for feature in read_features(path):
            if feature.kind not in NOT_CELLS:
                objects += _qupath_objects(feature, half)
    kinds = np.array([each.kind for each in objects], dtype=object)
    areas = _valid(np.array([each.area for each in objects], dtype=object))
    kept = ~shapely.is_missing(areas) & np.isin(kinds.astype(str), ("outline", "box"))
    if not kept.any():
        kept = ~shapely.is_missing(areas) & (kinds == "annotation") & ~_holds_others(areas)
    regions = int((~kept).sum())
    if not kept.any():
        what = f", only {regions} regions" if regions else ""
        raise InputError(f"{path}: holds no nuclei{what}; export detections of QuPath, or cells.json of CellViT")
    areas = shapely.transform(areas[kept], lambda xy: xy + np.asarray(origin))
    has_outline = kinds[kept] != "box"
    source = {
        "format": "CellViT" if key == CELLVIT else "GeoJSON",
        "without outline": int((~has_outline).sum()),
        "file": path.name,
        "regions": regions,
    }
    scores = np.array([each.score for each in objects], dtype=np.float32)[kept]
    boxes = shapely.bounds(areas).astype(np.float32)
    if key == CELLVIT and not has_outline.any():
        return Nuclei(boxes, scores, None, source)
    areas[~has_outline] = None
    return Nuclei(boxes, scores, areas, source)


def _cellvit_object(value: Any, where: str) -> _Object:
    """One cell of CellViT's JSON."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with 'bbox' and 'contour', got {shown(value, 60)}")
    contour, box, score = value.get("contour"), value.get("bbox"), value.get("type_prob")
    score = float(score) if isinstance(score, int | float) and 0 <= score <= 1 else 1.0
    ring = _numbers(contour, where, "contour") if contour else np.zeros((0, 2))
    if len(np.unique(ring, axis=0)) >= 3:
        return _Object("outline", shapely.Polygon(ring), score)
    if box is None:
        raise InputError(f"{where}: has neither 'bbox' nor a 'contour' of three points; expected what CellViT writes")
    corners = _numbers(box, where, "bbox")
    if corners.shape != (2, 2) or (corners[0] >= corners[1]).any():
        raise InputError(f"{where}: bbox {shown(box, 60)}: expected [[top, left], [bottom, right]]")
    (top, left), (bottom, right) = corners.tolist()
    return _Object("box", shapely.box(left, top, right, bottom), score)


def _numbers(value: Any, where: str, name: str) -> Floats:
    """(N, 2) finite pixels."""
    try:
        points = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) <= LARGEST).all():
        raise InputError(f"{where}: {name}: expected pairs of pixels of full resolution, got {shown(value, 60)}")
    return points


def _qupath_objects(feature: Feature, half: Floats) -> list[_Object]:
    """Objects of a GeoJSON Feature; ``half`` is half of the box of a point, px along x and y."""
    if feature.has_points:
        points = feature.points()
        return [_Object("box", box) for box in shapely.box(*(points - half).T, *(points + half).T)]
    if feature.kind in ("detection", "cell"):  # one nucleus, in parts or not
        return [_Object("outline", feature.area())]
    if not {feature.name, feature.class_name}.isdisjoint(REGIONS):
        return [_Object("region", feature.area())]
    # CellViT puts all nuclei of a type into one MultiPolygon.
    return [_Object("annotation", part) for part in shapely.get_parts(feature.area())]


def _valid(areas: NDArray[np.object_]) -> Polygons:
    """Each as one valid polygon, the largest of its parts; None where nothing has an area."""
    out = areas.copy()
    invalid = np.flatnonzero(~shapely.is_valid(out))
    out[invalid] = shapely.make_valid(out[invalid])
    for position in np.flatnonzero(shapely.get_type_id(out) != shapely.GeometryType.POLYGON):  # few
        parts = shapely.get_parts(shapely.get_parts(out[position]))  # of collections of MultiPolygons
        out[position] = max(parts, key=lambda part: part.area, default=None)
    out[shapely.area(out) == 0] = None
    return out


def _holds_others(areas: Polygons) -> NDArray[np.bool_]:
    """(N,) whether an area has the centres of two others or more in it: a region, not a nucleus."""
    bounds = shapely.bounds(areas[~shapely.is_missing(areas)])
    centres = shapely.points((bounds[:, :2] + bounds[:, 2:]) / 2)
    holder, _ = shapely.STRtree(centres).query(areas, predicate="intersects")
    return np.bincount(holder, minlength=len(areas)) > 2  # its own, mostly
