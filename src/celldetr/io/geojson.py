"""GeoJSON as QuPath and other annotation tools write it, read one Feature at a time, as exports of slides are large.

A file holds a FeatureCollection, a list of Features, a single Feature or a bare geometry, and may be compressed with
gzip or in a ZIP archive. Coordinates are pixels of full resolution, (x, y); z is ignored. ``Feature`` is the same for
QuPath 0.2 to 0.5; its geometry is parsed when asked for, so that objects which a caller skips cost nothing. Objects in
others (``childObjects``) follow these. Classes are read where QuPath, and programs that rewrite its files, put them.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.json_items import read_items
from celldetr.io.safe_io import shown

AREAS = ("Polygon", "MultiPolygon", "GeometryCollection")
POINTS = ("Point", "MultiPoint")
NOT_CELLS = ("tile", "tmacore", "root")  # kinds of objects that are neither a cell nor drawn by somebody
LOOKED_AT = 200  # objects, whose properties may hold classes under another key
LARGEST = 1e8  # px, of a coordinate: no image is that wide
CHILDREN = ("childObjects", "children")
# Keys of properties that hold a class where there is no ``classification``, in lower case without underscores.
CLASS_KEYS = ("class", "classname", "pathclass", "celltype", "category", "type", "label")
_OBJECT_ID = re.compile(r"(?:Path)?([A-Za-z]+)Object")


@dataclass(frozen=True)
class Feature:
    """An object of a GeoJSON file."""

    # type of the object in QuPath: annotation (where nothing is said), detection, cell, tile, tmacore or root
    kind: str
    name: str  # of the object; "" for none
    class_name: str  # classification as QuPath shows it, ``Tumor: Positive``; "" for none
    class_parts: tuple[str, ...]  # names that a derived classification is made of
    geometry: Any  # GeoJSON, as in the file
    nucleus: Any  # GeoJSON of a cell's nucleus; None where none is drawn
    where: str  # file and number of the object, for messages
    score: float = 1.0  # that a program gave it
    id: str = ""  # of the object in the file; "" for none

    @classmethod
    def parse(cls, value: Any, where: str) -> Feature:
        """A Feature of a file, or InputError."""
        if not isinstance(value, dict) or value.get("type") != "Feature":
            raise InputError(f"{where}: expected a Feature, got {shown(value, 60)}")
        properties = value.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        kind, name = _kind(value, properties), properties.get("name")
        name = name if isinstance(name, str) else ""
        class_name, parts = _classification(_class_value(properties, kind))
        nucleus = value.get("nucleusGeometry") if kind == "cell" else None
        number = value.get("id")
        number = str(number) if isinstance(number, str | int) and not _OBJECT_ID.fullmatch(str(number)) else ""
        return cls(kind, name, class_name, parts, value.get("geometry"), nucleus, where, id=number)

    @property
    def names(self) -> set[str]:
        """Its name, its classification, and the parts of a derived one."""
        return {self.name, self.class_name, *self.class_parts} - {""}

    @property
    def plane(self) -> tuple[int, int]:
        """Z and time of an object drawn in a stack, as QuPath numbers them."""
        plane = self.geometry.get("plane") if isinstance(self.geometry, dict) else None
        z, t = (plane.get(axis, 0) if isinstance(plane, dict) else 0 for axis in "zt")
        return (z, t) if isinstance(z, int) and isinstance(t, int) else (0, 0)

    @property
    def has_points(self) -> bool:
        """Whether the geometry is of points, not an area."""
        return isinstance(self.geometry, dict) and self.geometry.get("type") in POINTS

    def points(self) -> NDArray[np.float64]:
        """(N, 2) px, where ``has_points``; InputError for malformed coordinates."""
        coordinates = self.geometry.get("coordinates")
        return _numbers([coordinates] if self.geometry["type"] == "Point" else coordinates, self.where)

    def area(self) -> shapely.Polygon | shapely.MultiPolygon:
        """The area of the object, of a cell that of its nucleus if it is drawn; it need not be valid."""
        polygons = _polygons(self.nucleus or self.geometry, self.where)
        return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def read_features(path: Path | str) -> Iterator[Feature]:
    """The Features of a GeoJSON file (also packed), in its order; a bare geometry becomes one.

    Raises:
        InputError: no such file, or not GeoJSON; this may come after some Features.
    """
    for number, (key, value) in enumerate(read_items(Path(path), "GeoJSON"), 1):
        where = f"{path}: object {number}"
        kind = value.get("type") if isinstance(value, dict) else None
        if key is None and kind in (*AREAS, *POINTS):
            yield Feature.parse({"type": "Feature", "geometry": value}, where)
        elif key in ("features", "") or kind == "Feature":
            yield from _with_children(value, where)
        else:
            got = f"a list of {key}" if key else f"type {kind!r}" if kind else type(value).__name__
            raise InputError(f"{path}: expected a GeoJSON FeatureCollection, Feature or list of Features, got {got}")


def likely_classes(path: Path) -> dict[str, list[str]]:
    """Keys of properties, ``metadata.group``, whose values may be classes where none are known: few different texts."""
    found: dict[str, list[str]] = {}
    items = list(islice(read_items(path, "GeoJSON"), LOOKED_AT))
    for _, value in items:
        properties = value.get("properties") if isinstance(value, dict) else None
        left = list(properties.items()) if isinstance(properties, dict) else []
        while left:
            key, own = left.pop()
            if isinstance(own, dict):
                left += [(f"{key}.{inner}", each) for inner, each in own.items()]
            elif isinstance(own, str) and not any(map(str.isdigit, own)):
                found.setdefault(key, []).append(own)
    kinds = {
        key: sorted(set(values)) for key, values in found.items() if len(values) == len(items) and key != "objectType"
    }
    return {key: values for key, values in kinds.items() if 1 < len(values) <= len(items) / 2}


def _with_children(value: Any, where: str) -> Iterator[Feature]:
    """A Feature, and those in it however deep."""
    left = [(value, where)]
    while left:
        value, where = left.pop(0)
        yield Feature.parse(value, where)
        properties = value.get("properties")
        for holder in (value, properties if isinstance(properties, dict) else {}):
            for key in CHILDREN:
                children = holder.get(key)
                if isinstance(children, list):
                    left[:0] = [(child, f"{where}, child {i}") for i, child in enumerate(children, 1)]


def _kind(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    """``objectType`` since QuPath 0.3, ``object_type`` by others; before, the Feature's id: ``PathCellObject``."""
    kind = properties.get("objectType", properties.get("object_type"))
    if kind is None:
        match = _OBJECT_ID.fullmatch(str(feature.get("id")))
        kind = match.group(1) if match else "annotation"
    return str(kind).lower().replace("_", "")


def _class_value(properties: Mapping[str, Any], kind: str) -> Any:
    """What properties say of the class: ``classification`` of QuPath, else the key of another program."""
    value = properties.get("classification")
    if value is not None and value != "":
        return value
    keys = {key.lower().replace("_", "").replace(" ", ""): key for key in properties}
    for key in CLASS_KEYS:
        value = properties.get(keys.get(key, ""))
        # ``type`` may also be the kind of the object.
        if (
            isinstance(value, str | int | dict)
            and value != ""
            and str(value).lower() not in (kind, "feature", "polygon")
        ):
            return value
    return None


def _classification(value: Any) -> tuple[str, tuple[str, ...]]:
    """Name of a classification, and its parts: text by other programs, ``name`` or ``names`` by QuPath.

    Programs that make a table of the properties (GDAL, geopandas) write QuPath's as JSON or Python text.
    """
    if isinstance(value, str) and value.lstrip().startswith(("{", "[", '"')):
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(value)
                break
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value).strip(), ()
    if isinstance(value, list):
        value = {"names": value}
    if not isinstance(value, dict):
        return "", ()
    names, name = value.get("names"), value.get("name")
    parts = tuple(map(str, names)) if isinstance(names, list) else ()
    return name if isinstance(name, str) and name else ": ".join(parts), parts


def _polygons(geometry: Any, where: str) -> list[shapely.Polygon]:
    """The polygons of an area, however many collections they are in."""
    left, polygons = [geometry], []
    while left:
        value = left.pop(0)
        kind = value.get("type") if isinstance(value, dict) else None
        if kind not in AREAS:
            got = f"is a {kind}" if isinstance(kind, str) else "has no geometry"
            raise InputError(
                f"{where} {got}; expected an area (Polygon or MultiPolygon): points and lines hold no cells"
            )
        inner = value.get("geometries" if kind == "GeometryCollection" else "coordinates")
        inner = [inner] if kind == "Polygon" else inner
        if not isinstance(inner, list):
            raise InputError(f"{where}: a {kind} without coordinates")
        if kind == "GeometryCollection":
            left = inner + left
        else:
            polygons += [_polygon(rings, where) for rings in inner]
    return polygons


def _polygon(rings: Any, where: str) -> shapely.Polygon:
    if not isinstance(rings, list) or not rings:
        raise InputError(f"{where}: a polygon without coordinates")
    arrays = [_numbers(ring, where) for ring in rings]
    fewest = min(len(ring) - int((ring[0] == ring[-1]).all()) for ring in arrays)
    if fewest < 3:
        raise InputError(f"{where}: a polygon of {fewest} points; expected at least 3")
    return shapely.Polygon(arrays[0], arrays[1:])


def _numbers(values: Any, where: str) -> NDArray[np.float64]:
    """(N, 2) finite pixels from a list of coordinates."""
    try:
        points = np.array(values)
    except (ValueError, OverflowError):  # rows of different lengths
        points = np.zeros(0)
    if (
        points.ndim != 2
        or points.shape[1] < 2
        or points.dtype.kind not in "iuf"
        or not (np.abs(points[:, :2]) <= LARGEST).all()
    ):
        raise InputError(f"{where}: expected points of two numbers, pixels of full resolution; got {shown(values, 60)}")
    return points[:, :2].astype(np.float64)
