"""Nuclei that others have found: QuPath's GeoJSON, and what CellViT writes.

CellViT (Hoerst et al., 2024; CellViT++ alike) writes ``cells.json`` (contours), ``cell_detection.json`` (boxes only)
and both as GeoJSON, one MultiPolygon or MultiPoint a type. In JSON, ``bbox`` is [[row, column], [row, column]] while
``centroid`` and ``contour`` are (x, y); all in pixels of full resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.data.readers.qupath_objects import POINTS, REGIONS
from celldetr.errors import InputError
from celldetr.io.json_items import read_items
from celldetr.io.safe_io import shown
from celldetr.slide.roi import AREAS, LIMIT, NO_CELL, area_of, class_name, object_kind, read_features
from celldetr.spatial.coordinates import Floats, Mpp, pixel_scale
from celldetr.spatial.section import Nuclei, Polygons

SUFFIXES = (".geojson", ".geojson.gz", ".json", ".json.gz")
POINT_UM = 7.0  # diameter that a point stands for: about that of a lymphocyte's nucleus
OBJECTS = ("detection", "cell")  # QuPath's objects that are nuclei whatever surrounds them


@dataclass
class _Found:
    """Nuclei as they are read. Rows of a list are one nucleus each."""

    polygons: list[shapely.Geometry | None] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float] | None] = field(default_factory=list)  # where there is no polygon
    scores: list[float] = field(default_factory=list)
    drawn: list[bool] = field(default_factory=list)  # by annotations, which may be regions
    points: int = 0

    def add(
        self,
        polygon: shapely.Geometry | None,
        box: tuple[float, float, float, float] | None = None,
        score: float = 1.0,
        drawn: bool = False,
    ) -> None:
        self.polygons.append(polygon)
        self.boxes.append(box)
        self.scores.append(score)
        self.drawn.append(drawn)


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
    found, kind = _Found(), "GeoJSON"
    number = 0
    single = False
    for key, item, value in read_items(path, "cannot be read as JSON", "export the nuclei again"):
        if item and key != "cells":
            number += 1
            _add_feature(value, f"{path}: object {number}", found, pixel_scale(mpp))
        elif item:
            number, kind = number + 1, "CellViT"
            _add_cell(value, f"{path}: cell {number}", found)
        elif key is None and not isinstance(value, list | dict):
            raise InputError(f"{path}: expected a list or an object with nuclei, got {shown(value, 60)}")
        elif key == "type" and value != "FeatureCollection":
            single = True  # a Feature or a bare geometry
            break
    if single:
        for feature in read_features(path):
            _add_feature(feature, f"{path}: object 1", found, pixel_scale(mpp))
    nuclei, regions = _assemble(found, np.asarray(origin, dtype=np.float64))
    if not len(nuclei):
        what = f", only {regions} regions" if regions else ""
        raise InputError(f"{path}: holds no nuclei{what}; export detections of QuPath, or cells.json of CellViT")
    nuclei.source.update(format=kind, file=path.name, points=found.points, regions=regions)
    return nuclei


def _add_cell(value: Any, where: str, found: _Found) -> None:
    """One cell of CellViT's JSON."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with 'bbox' and 'contour', got {shown(value, 60)}")
    contour, box = value.get("contour"), value.get("bbox")
    score = value.get("type_prob")
    score = float(score) if isinstance(score, int | float) and 0 <= score <= 1 else 1.0
    ring = _numbers(contour, where, "contour") if contour else np.zeros((0, 2))
    if len(np.unique(ring, axis=0)) >= 3:
        found.add(shapely.Polygon(ring), score=score)
        return
    if box is None:
        raise InputError(f"{where}: has neither 'bbox' nor a 'contour' of three points; expected what CellViT writes")
    corners = _numbers(box, where, "bbox")
    if corners.shape != (2, 2) or (corners[0] >= corners[1]).any():
        raise InputError(f"{where}: bbox {shown(box, 60)}: expected [[top, left], [bottom, right]]")
    (top, left), (bottom, right) = corners.tolist()
    found.add(None, (left, top, right, bottom), score)


def _numbers(value: Any, where: str, name: str) -> Floats:
    """(N, 2) finite pixels."""
    try:
        points = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) <= LIMIT).all():
        raise InputError(f"{where}: {name}: expected pairs of pixels of full resolution, got {shown(value, 60)}")
    return points


def _add_feature(feature: Any, where: str, found: _Found, scale: Floats) -> None:
    """The nuclei of one GeoJSON Feature."""
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise InputError(f"{where}: expected a Feature, got {shown(feature, 60)}")
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    kind = object_kind(feature)
    if kind in NO_CELL:
        return
    geometry = feature.get("geometry")
    if isinstance(geometry, dict) and geometry.get("type") in POINTS:
        coordinates = geometry.get("coordinates")
        points = _numbers([coordinates] if geometry["type"] == "Point" else coordinates, where, "points")
        half = POINT_UM / 2 / scale
        for low, high in zip((points - half).tolist(), (points + half).tolist(), strict=True):
            found.add(None, (low[0], low[1], high[0], high[1]))
        found.points += len(points)
        return
    drawn = kind not in OBJECTS
    if drawn and _is_region(properties):
        found.add(None, drawn=True)
        return
    area = area_of((feature.get("nucleusGeometry") if kind == "cell" else None) or geometry, where)
    # CellViT puts all nuclei of a type into one MultiPolygon; a detection of QuPath is one nucleus, in parts or not.
    for part in _parts(area) if drawn else [area]:
        found.add(part, drawn=drawn)


def _is_region(properties: dict[str, Any]) -> bool:
    return not {properties.get("name"), class_name(properties)}.isdisjoint(REGIONS)


def _parts(area: shapely.Geometry) -> Iterator[shapely.Geometry]:
    if area.geom_type in AREAS and area.geom_type != "Polygon":
        for part in area.geoms:
            yield from _parts(part)
    elif area.geom_type == "Polygon":
        yield area


def _assemble(found: _Found, origin: Floats) -> tuple[Nuclei, int]:
    """Arrays of what was read, without regions; and how many of these there were."""
    polygons = _single(np.array(found.polygons, dtype=object))
    has_polygon = np.array([polygon is not None for polygon in polygons], dtype=bool)
    drawn = np.array(found.drawn, dtype=bool)
    boxes = np.array([box or (np.nan,) * 4 for box in found.boxes], dtype=np.float64).reshape(-1, 4)
    boxes[has_polygon] = shapely.bounds(polygons[has_polygon])
    named = np.isnan(boxes).any(1)  # regions by their class, and what has no area
    region = named | (drawn & (~drawn[~named].all() | _around(polygons, boxes)))
    kept = ~region
    polygons = shapely.transform(polygons[kept], lambda points: points + origin)
    without = not found.points and not has_polygon[kept].any()
    nuclei = Nuclei(
        boxes=(boxes[kept] + np.tile(origin, 2)).astype(np.float32),
        scores=np.array(found.scores, dtype=np.float32)[kept],
        polygons=None if without else polygons,
    )
    return nuclei, int(region.sum())


def _single(geometries: NDArray[np.object_]) -> Polygons:
    """Each as one valid polygon, the largest of its parts; None where nothing has an area."""
    out = geometries.copy()
    invalid = np.flatnonzero(~shapely.is_valid(geometries) & ~shapely.is_missing(geometries))
    out[invalid] = shapely.make_valid(geometries[invalid])
    for position in np.flatnonzero(~np.isin(shapely.get_type_id(out), (-1, 3))):  # few
        areas = [part for part in _parts(out[position]) if part.area > 0]
        areas = [part for area in areas for part in _parts(shapely.make_valid(area))]
        out[position] = max(areas, key=lambda part: part.area, default=None)
    out[shapely.area(out) == 0] = None
    return out


def _around(polygons: Polygons, boxes: Floats) -> NDArray[np.bool_]:
    """(N,) whether a polygon has two others' centres or more in it: a region, not a nucleus."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    known = np.flatnonzero(~np.isnan(centres).any(1))
    around, _ = shapely.STRtree(shapely.points(centres[known])).query(polygons, predicate="intersects")
    return np.bincount(around, minlength=len(polygons)) > 2  # its own, mostly
