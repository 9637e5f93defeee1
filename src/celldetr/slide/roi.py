"""Regions of interest: what QuPath's GeoJSON says, as one geometry that is valid and has one way of being written.

A file holds a FeatureCollection, a Feature, a list of Features (QuPath writes all three) or a bare geometry. Areas
count: Polygon, MultiPolygon and GeometryCollections of these; several are joined. A polygon that crosses itself is read
by the even-odd rule, as it is filled on the screen. Coordinates are pixels of full resolution; z is ignored.

The text of the geometry (WKT) stands for it in ``PredictOptions`` and in ``run.json``: two files with the same areas
give the same text, whatever they are called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.errors import InputError, near
from celldetr.io.json_items import Item, read_items
from celldetr.io.safe_io import shown

# What QuPath calls the objects that are cells, not regions drawn by somebody.
CELL_OBJECTS = ("detection", "cell", "tile")
NO_CELL = ("tile", "tmacore", "root")  # QuPath's objects that are neither a cell nor drawn by somebody
OBJECT_CLASS = re.compile(r"(?:Path)?([A-Za-z]+)Object")
LIMIT = 1e8  # px; no image is that wide, and beyond it fractions of a pixel get lost
SMALLEST = 1e-9  # square px of a part; what is less is rounding
MOST_CROSSINGS = 100_000  # of outlines with themselves and each other; drawn by hand they have some dozens
MOST_CORNERS = 100_000_000  # of all outlines that are kept: 1.6 GB
MOST_NAMES = 1000  # that are kept for a message, and their characters
MOST_NEAR = 3_000_000  # pairs of edges whose bounding boxes meet, or more if these are no more than
NEIGHBOURS = 16  # an edge
DEEPEST = 8  # collections in collections; QuPath writes one
AREAS = ("Polygon", "MultiPolygon", "GeometryCollection")


def read_roi(path: Path | str, name: str | None = None) -> shapely.MultiPolygon:
    """Read the areas of a GeoJSON file (also ``.gz``) and join them.

    Args:
        path: as QuPath exports it.
        name: only annotations of this name or classification.

    Returns:
        A valid geometry in pixels of full resolution, for ``PredictOptions(roi=...)``.

    Raises:
        InputError: no such file, not GeoJSON, a point or a line, a polygon of fewer than three points, no area, or no
            annotation called ``name``.
    """
    found: list[shapely.Geometry] = []
    names: set[str] = set()
    cells = corners = 0
    for number, feature in enumerate(read_features(path), 1):
        where = f"{path}: object {number}"
        properties = feature.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        if object_kind(feature) in CELL_OBJECTS:
            cells += 1
            continue
        called = _names(properties)
        if len(names) < MOST_NAMES:
            names |= {each[:MOST_NAMES] for each in called}
        if name is None or name in called:
            found.append(area_of(feature.get("geometry"), where))
            corners = add_corners(corners, found[-1], where)
    if found:
        return joined(found, str(path))
    if name is not None and names:
        raise InputError(f"{path}: has no annotation called {name!r}; {near(name, names)}")
    other = f", only {cells:,} cells or tiles" if cells else ""
    raise InputError(f"{path}: holds no annotation{other}; draw one in QuPath and export it as GeoJSON")


def read_features(path: Path | str) -> Iterator[dict[str, Any]]:
    """The Features of a GeoJSON file (also ``.gz``), in its order; what is in them is not looked at.

    A bare geometry becomes a Feature. Of a collection one Feature at a time is in memory.

    Raises:
        InputError: no such file, not GeoJSON, or beyond a limit of ``read_items``; this may come after some Features.
    """
    path = Path(path)
    top: Any = None
    members: dict[str, Any] = {}  # of an object; lists of Features are empty
    given: list[Any] = []  # its type, once there were Features
    for key, item, value in _items(path):
        if not item and key is None:
            top = value
        elif not item:
            members[str(key)] = value
        elif key != "cells":
            if key and not given:
                # Where the type follows the Features, which is rare, the file is read twice.
                given = [members["type"] if "type" in members else _type(path)]
            if key is None or given == ["FeatureCollection"]:
                if not isinstance(value, dict) or value.get("type") != "Feature":
                    raise InputError(f"{path}: expected Features, got {shown(value, 60)}")
                yield value
    kind = members.get("type")
    if given and given != [kind]:  # two types, or another file than at the first look
        raise InputError(f"{path}: type {kind!r} follows the features of a {given[0]!r}; export it as GeoJSON again")
    if kind in AREAS:
        yield {"type": "Feature", "geometry": members}
    elif kind == "Feature":
        yield members
    elif not isinstance(members.get("features") if kind == "FeatureCollection" else top, list):
        got = f"type {kind!r}" if kind else type(top).__name__
        raise InputError(f"{path}: expected a GeoJSON FeatureCollection, Feature or list of Features, got {got}")


def _items(path: Path) -> Iterator[Item]:
    return read_items(path, "not GeoJSON", "export annotations from QuPath as GeoJSON")


def _type(path: Path) -> Any:
    """The member ``type`` of a file."""
    return next((value for key, item, value in _items(path) if key == "type" and not item), None)


def object_kind(feature: Mapping[str, Any]) -> str:
    """What QuPath says a Feature is: annotation, detection, cell, tile, tmacore or root; annotation where it does not.

    In ``objectType`` or ``object_type`` since 0.3; before, the name of its class was the Feature's id:
    ``PathCellObject``.
    """
    properties = feature.get("properties")
    told = properties if isinstance(properties, dict) else {}
    kind = told.get("objectType", told.get("object_type"))
    if kind is None:
        match = OBJECT_CLASS.fullmatch(str(feature.get("id")))
        kind = match.group(1) if match else "annotation"
    return str(kind).lower().replace("_", "")


def class_name(properties: Mapping[str, Any]) -> str:
    """The classification of an object as QuPath shows it, ``Tumor: Positive``; "" for none."""
    kind = properties.get("classification")
    if isinstance(kind, str):  # of other programs
        return kind
    if not isinstance(kind, dict):
        return ""
    parts = kind.get("names")
    name = kind.get("name") or (": ".join(map(str, parts)) if isinstance(parts, list) else "")
    return name if isinstance(name, str) else ""


def joined(geometries: list[shapely.Geometry], where: str) -> shapely.MultiPolygon:
    """Areas, valid or not -> their union, valid, in an order that depends on nothing but the area.

    Raises:
        InputError: it has no area, or crosses itself so often that it is nothing that anybody drew.
    """
    polygons = [polygon for geometry in geometries for polygon in _polygons(geometry)]
    if _is_tangled(polygons):
        raise InputError(
            f"{where}: the outlines of the ROI cross themselves and each other more than {MOST_CROSSINGS:,} times; "
            "draw them anew, or simplify them in QuPath"
        )
    try:
        parts = [part for polygon in polygons for part in _even_odd(polygon)]
        faces = shapely.get_parts(shapely.union_all(parts))
        areas = [face for face in faces if face.geom_type == "Polygon" and face.area > SMALLEST]
    except shapely.errors.GEOSException as error:
        raise InputError(f"{where}: the areas of the ROI cannot be joined ({error}); draw them anew") from None
    if not areas:
        raise InputError(f"{where}: the ROI has no area; expected at least one polygon that encloses pixels")
    return shapely.normalize(shapely.MultiPolygon(areas))


def _edges(polygon: shapely.Polygon) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, 2) starts and ends of the edges of a polygon's rings."""
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    starts, ends = (np.concatenate([ring[cut] for ring in rings]) for cut in (slice(None, -1), slice(1, None)))
    return starts, ends


def _is_tangled(polygons: list[shapely.Polygon]) -> bool:
    """Whether edges cross more than ``MOST_CROSSINGS`` times, or so many are near each other that none could count it.

    Joining takes memory and time for every crossing, and n edges can have n squared. Edges that only touch, as those
    of areas side by side do, are no crossings.
    """
    found = [_edges(polygon) for polygon in polygons if not polygon.is_empty]
    if not found:
        return False
    starts, ends = (np.concatenate(parts) for parts in zip(*found, strict=True))
    edges = shapely.linestrings(np.stack([starts, ends], axis=1))
    tree = shapely.STRtree(edges)
    near, crossings, step = 0, 0, 32
    for first in range(0, len(edges), step):
        one, other = tree.query(edges[first : first + step])
        near += len(one)
        if near > max(MOST_NEAR, NEIGHBOURS * len(edges)):
            return True
        one, other = (one + first)[one + first < other], other[one + first < other]  # each pair once
        crossings += int(_cross(starts[one], ends[one], starts[other], ends[other]).sum())
        if crossings > MOST_CROSSINGS:
            return True
    return False


def _cross(
    a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64], d: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(N, 2) each -> (N,) whether the edges from a to b and from c to d cross inside both: neither is on one side."""

    def side(p: NDArray[np.float64], q: NDArray[np.float64], r: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sign((q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (r[:, 0] - p[:, 0]))

    return (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)


def _polygons(geometry: shapely.Geometry) -> Iterator[shapely.Polygon]:
    """The polygons of a geometry of any depth; what is no area is left out."""
    if geometry.geom_type == "Polygon":
        yield geometry
    elif geometry.geom_type in AREAS:
        for part in geometry.geoms:
            yield from _polygons(part)


def _even_odd(polygon: shapely.Polygon) -> list[shapely.Polygon]:
    """Valid polygons of what a polygon covers whose rings may cross themselves and each other in any way.

    The faces between all its edges are kept that a ray leaves through an odd number of edges.
    """
    if polygon.is_valid:
        return [polygon] if polygon.area > 0 else []
    starts, ends = _edges(polygon)
    edges = shapely.union_all(shapely.linestrings(np.stack([starts, ends], axis=1)))
    faces = list(shapely.get_parts(shapely.polygonize(shapely.get_parts(edges))))
    kept = []
    for face in faces:
        x, y = face.representative_point().coords[0]
        crossing = (starts[:, 1] <= y) != (ends[:, 1] <= y)
        (x0, y0), (x1, y1) = starts[crossing].T, ends[crossing].T
        if np.count_nonzero(x < x0 + (y - y0) * (x1 - x0) / (y1 - y0)) % 2:
            kept.append(face)
    return kept


def roi_text(value: object) -> str | None:
    """What ``PredictOptions.roi`` keeps of a geometry (or of its text): WKT that is equal for equal areas.

    Raises:
        ValueError: something else, or no area.
    """
    if value is None:
        return None
    try:
        geometry = shapely.from_wkt(value) if isinstance(value, str) else value
    except shapely.errors.GEOSException:
        geometry = None
    if not isinstance(geometry, shapely.Geometry) or geometry.geom_type not in AREAS:
        raise ValueError(f"roi={str(value)[:60]!r}: expected what celldetr.slide.roi.read_roi gives, or its WKT")
    if not all(abs(edge) <= LIMIT for edge in geometry.bounds):
        raise ValueError(f"roi: expected pixels of full resolution, got coordinates in {geometry.bounds}")
    # Twenty decimals are as many as a coordinate needs to come back as it was, and no more are written than that.
    return str(shapely.to_wkt(joined([shapely.force_2d(geometry)], "options"), rounding_precision=20))


def place_roi(text: str | None, origin: str, bounds: tuple[int, int, int, int] | None) -> shapely.MultiPolygon | None:
    """The geometry of a ROI's text in level-0 pixels of the slide; None without a ROI.

    Args:
        text: WKT, see ``roi_text``.
        origin: ``bounds`` if its coordinates count from the corner of ``bounds``, ``slide`` if from the slide's own.
        bounds: (x, y, width, height) of what was scanned, where the slide says so.
    """
    if text is None:
        return None
    geometry = shapely.from_wkt(text)
    if origin != "bounds" or bounds is None:
        return geometry
    return shapely.transform(geometry, lambda points: points + bounds[:2])


def roi_of_run(run: Mapping[str, Any]) -> shapely.MultiPolygon | None:
    """The ROI of a run, in level-0 pixels of its slide, from the content of ``run.json``; None if it had none.

    Raises:
        InputError: somebody has edited it.
    """
    options = run.get("options")
    if not isinstance(options, dict) or not options.get("roi"):
        return None
    bounds = run.get("bounds_px")
    try:
        return place_roi(options["roi"], options.get("roi_origin", "slide"), tuple(bounds) if bounds else None)
    except (shapely.errors.GEOSException, TypeError, ValueError):
        raise InputError("run.json: options.roi is not a geometry; run predict again with --overwrite") from None


def _names(properties: dict[str, Any]) -> set[str]:
    """What an annotation is called: its own name, its classification, and the parts of a derived one."""
    found = [properties.get("name"), class_name(properties)]
    kind = properties.get("classification")
    parts = kind.get("names") if isinstance(kind, dict) else None
    if isinstance(parts, list):
        found += [": ".join(map(str, parts)), *map(str, parts)]
    return {text for text in found if isinstance(text, str) and text}


def area_of(value: Any, where: str, depth: int = 0) -> shapely.Geometry:
    """A GeoJSON geometry that is an area, valid or not; ``where`` is for messages.

    Raises:
        InputError: a point, a line, or coordinates that are none.
    """
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "GeometryCollection":
        parts = value.get("geometries")
        if not isinstance(parts, list):
            raise InputError(f"{where}: a GeometryCollection without a list of geometries")
        if depth == DEEPEST:
            raise InputError(f"{where}: more than {DEEPEST} GeometryCollections in each other; expected one")
        return shapely.GeometryCollection([area_of(part, where, depth + 1) for part in parts])
    if kind not in AREAS:
        got = f"is a {kind}" if isinstance(kind, str) else "has no geometry"
        raise InputError(f"{where} {got}; expected an area (Polygon or MultiPolygon): points and lines hold no cells")
    polygons = [value.get("coordinates")] if kind == "Polygon" else value.get("coordinates")
    if not isinstance(polygons, list) or not all(isinstance(rings, list) and rings for rings in polygons):
        raise InputError(f"{where}: a {kind} without coordinates")
    return shapely.MultiPolygon([_polygon([_ring(ring, where) for ring in rings]) for rings in polygons])


def add_corners(corners: int, geometry: shapely.Geometry, where: str) -> int:
    """The corners of what was kept before and of one more geometry; ``where`` is for the message.

    Raises:
        InputError: more than ``MOST_CORNERS``.
    """
    corners += int(shapely.get_num_coordinates(geometry))
    if corners > MOST_CORNERS:
        raise InputError(f"{where}: the outlines so far have more than {MOST_CORNERS:,} corners; is it the right file?")
    return corners


def _polygon(rings: list[list[tuple[float, float]]]) -> shapely.Polygon:
    return shapely.Polygon(rings[0], rings[1:])


def _ring(points: Any, where: str) -> list[tuple[float, float]]:
    if not isinstance(points, list):
        raise InputError(f"{where}: expected rings of points, got {shown(points, 60)}")
    ring = []
    for point in points:
        pair = point[:2] if isinstance(point, list) else None
        if not pair or len(pair) < 2 or any(type(v) not in (int, float) or v != v for v in pair):
            raise InputError(f"{where}: expected points of two finite numbers, got {shown(point, 60)}")
        if max(abs(pair[0]), abs(pair[1])) > LIMIT:
            raise InputError(f"{where}: expected pixels of full resolution, got {shown(point, 60)}")
        ring.append((float(pair[0]), float(pair[1])))
    if len(set(ring)) < 3:
        raise InputError(f"{where}: a polygon of {len(set(ring))} points; expected at least 3")
    return ring
