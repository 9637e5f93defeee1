"""Nuclei from files of other programs: QuPath's GeoJSON, and what CellViT writes.

CellViT (Hoerst et al., 2024; CellViT++ alike) writes ``cells.json`` (contours), ``cell_detection.json`` (boxes only)
and both as GeoJSON, one MultiPolygon or MultiPoint a type. In JSON, ``bbox`` is [[row, column], [row, column]] while
``contour`` is (x, y); all in pixels of full resolution.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

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
NO_BOX = (np.nan,) * 4


class _Nucleus(NamedTuple):
    """A nucleus of a file: a polygon (valid or not) or, without one, a box (xyxy)."""

    polygon: shapely.Geometry | None
    box: tuple[float, ...] = NO_BOX
    score: float = 1.0
    is_annotation: bool = False  # of QuPath, which may be a region


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

    Raises:
        InputError: no such file, another format, no nuclei in it, or malformed (the message names the object).
    """
    path = Path(path)
    if path.name.lower().endswith(".snappy"):
        raise InputError(f"{path}: is compressed with Snappy; unpack it, or run CellViT without --compression")
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path}: expected nuclei as {', '.join(SUFFIXES)}, or the cells.parquet of celldetr predict")
    read: list[_Nucleus] = []
    regions = 0
    key, _ = next(read_items(path, "JSON"), (None, None))
    is_cellvit = key == CELLVIT
    if is_cellvit:
        for number, (_, value) in enumerate(read_items(path, "JSON"), 1):
            read.append(_cellvit_nucleus(value, f"{path}: cell {number}"))
    else:
        half = POINT_UM / 2 / pixel_scale(mpp)
        for feature in read_features(path):
            if feature.kind not in NOT_CELLS:
                found = _qupath_nuclei(feature, half)
                read += found
                regions += not found
    nuclei, others = _to_arrays(read, np.asarray(origin, dtype=np.float64))
    regions += others
    if not len(nuclei):
        what = f", only {regions} regions" if regions else ""
        raise InputError(f"{path}: holds no nuclei{what}; export detections of QuPath, or cells.json of CellViT")
    boxes_only = int(shapely.is_missing(nuclei.polygons).sum())
    if is_cellvit:
        source = {"format": "CellViT", "points": 0}
        nuclei = nuclei if boxes_only < len(nuclei) else replace(nuclei, polygons=None)
    else:
        source = {"format": "GeoJSON", "points": boxes_only}
    return replace(nuclei, source=source | {"file": path.name, "regions": regions})


def _cellvit_nucleus(value: Any, where: str) -> _Nucleus:
    """One cell of CellViT's JSON."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with 'bbox' and 'contour', got {shown(value, 60)}")
    contour, box, score = value.get("contour"), value.get("bbox"), value.get("type_prob")
    score = float(score) if isinstance(score, int | float) and 0 <= score <= 1 else 1.0
    ring = _numbers(contour, where, "contour") if contour else np.zeros((0, 2))
    if len(np.unique(ring, axis=0)) >= 3:
        return _Nucleus(shapely.Polygon(ring), score=score)
    if box is None:
        raise InputError(f"{where}: has neither 'bbox' nor a 'contour' of three points; expected what CellViT writes")
    corners = _numbers(box, where, "bbox")
    if corners.shape != (2, 2) or (corners[0] >= corners[1]).any():
        raise InputError(f"{where}: bbox {shown(box, 60)}: expected [[top, left], [bottom, right]]")
    (top, left), (bottom, right) = corners.tolist()
    return _Nucleus(None, (left, top, right, bottom), score)


def _numbers(value: Any, where: str, name: str) -> Floats:
    """(N, 2) finite pixels."""
    try:
        points = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) <= LARGEST).all():
        raise InputError(f"{where}: {name}: expected pairs of pixels of full resolution, got {shown(value, 60)}")
    return points


def _qupath_nuclei(feature: Feature, half: Floats) -> list[_Nucleus]:
    """Nuclei of a GeoJSON Feature, none of a region; ``half`` is half of the box of a point, px along x and y."""
    if feature.has_points:
        points = feature.points()
        return [_Nucleus(None, tuple(box)) for box in np.hstack([points - half, points + half]).tolist()]
    if feature.kind in ("detection", "cell"):  # one nucleus, in parts or not
        return [_Nucleus(feature.area())]
    if not {feature.name, feature.class_name}.isdisjoint(REGIONS):
        return []
    # CellViT puts all nuclei of a type into one MultiPolygon.
    return [_Nucleus(part, is_annotation=True) for part in shapely.get_parts(feature.area())]


def _to_arrays(read: list[_Nucleus], origin: Floats) -> tuple[Nuclei, int]:
    """Nuclei as arrays, in level-0 pixels; and how many objects were left out as regions or without area."""
    polygons = _valid(np.array([nucleus.polygon for nucleus in read], dtype=object))
    has_polygon = ~shapely.is_missing(polygons)
    annotation = np.array([nucleus.is_annotation for nucleus in read], dtype=bool)
    boxes = np.array([nucleus.box for nucleus in read], dtype=np.float64).reshape(-1, 4)
    boxes[has_polygon] = shapely.bounds(polygons[has_polygon])
    known = ~np.isnan(boxes).any(1)
    kept = known & ~annotation
    if not kept.any():
        kept = known & ~_holds_others(polygons, boxes)
    polygons = shapely.transform(polygons[kept], lambda xy: xy + origin)
    nuclei = Nuclei(
        boxes=(boxes[kept] + np.tile(origin, 2)).astype(np.float32),
        scores=np.array([nucleus.score for nucleus in read], dtype=np.float32)[kept],
        polygons=polygons,
    )
    return nuclei, int((~kept).sum())


def _valid(geometries: NDArray[np.object_]) -> Polygons:
    """Each as one valid polygon, the largest of its parts; None where nothing has an area."""
    out = geometries.copy()
    invalid = np.flatnonzero(~shapely.is_valid(out) & ~shapely.is_missing(out))
    out[invalid] = shapely.make_valid(out[invalid])
    for position in np.flatnonzero(~np.isin(shapely.get_type_id(out), (-1, shapely.GeometryType.POLYGON))):  # few
        parts = shapely.get_parts(shapely.get_parts(out[position]))  # of collections of MultiPolygons
        out[position] = max(parts, key=lambda part: part.area, default=None)
    out[shapely.area(out) == 0] = None
    return out


def _holds_others(polygons: Polygons, boxes: Floats) -> NDArray[np.bool_]:
    """(N,) whether a polygon has the centres of two others or more in it: a region, not a nucleus."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    known = np.flatnonzero(~np.isnan(centres).any(1))
    holder, _ = shapely.STRtree(shapely.points(centres[known])).query(polygons, predicate="intersects")
    return np.bincount(holder, minlength=len(polygons)) > 2  # its own, mostly
