"""What QuPath's GeoJSON says of cells: their boxes or points and classes, and the regions in which they were labelled.

Cells are detections and cells (of a cell, its nucleus if that is drawn), the points of point annotations, and
annotations drawn around a nucleus. An annotation is a region if its class or name is one of those that the card calls
regions (``Region*``, say, which QuPath offers). Another one around the places of other objects is an outline: no cell.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.json_items import MOST_ITEMS
from celldetr.io.safe_io import shown
from celldetr.slide.roi import LIMIT, NO_CELL, add_corners, area_of, class_name, joined, object_kind, read_features

REGIONS = ("Region*", "Region", "region", "train")  # class or name of a labelled area; the first is QuPath's own
IGNORED = "Ignore*"  # QuPath's class of what takes no part in a classification: a cell of unknown type
SUFFIXES = (".geojson", ".geojson.gz")
POINTS = ("Point", "MultiPoint")
MOST_CLASSES = 10_000  # of a file; the characters of one
SMALLER = 0.25  # of an annotation's bounds: another of less inside makes it an outline, not a nucleus over a nucleus


@dataclass(frozen=True)
class Objects:
    """The cells of one file, in pixels of full resolution as QuPath counts them.

    Attributes:
        boxes: (N, 4) xyxy; of a point, twice the point.
        places: (N, 2) centre of the box, or the point.
        points: (N,) whether it is a point.
        classes: of each; "" where it has none.
        rows: of each, where it was read, for messages.
        regions: what was labelled, in parts that do not overlap; None: the file does not say.
    """

    boxes: NDArray[np.float64]
    places: NDArray[np.float64]
    points: NDArray[np.bool_]
    classes: list[str]
    rows: list[str]
    regions: tuple[shapely.Polygon, ...] | None


def read_objects(path: Path, regions: Sequence[str] = REGIONS) -> Objects:
    """Read a GeoJSON file as QuPath exports it, also compressed (``.gz``).

    The file may be larger than memory: of a detection or cell its box and class are kept, of an annotation its outline.

    Args:
        path: the file.
        regions: classes or names of the annotations that delimit what was labelled.

    Raises:
        InputError: not GeoJSON, an object that is neither an area nor points, an annotation around others that is no
            region while there is none, or more than ``MOST_ITEMS`` cells, ``MOST_CORNERS`` of annotations or
            ``MOST_CLASSES``.
    """
    boxes = array("d")  # four a cell; lists of tuples would take six times as much
    known: dict[str, str] = {}  # one text a class, not a cell
    corners = 0
    classes, rows = list[str](), list[str]()
    areas: dict[int, shapely.Geometry] = {}  # position -> of annotations, which may be outlines
    delimited = []
    for number, feature in enumerate(read_features(path), 1):
        where = f"{path}: object {number}"
        properties = feature.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        kind = object_kind(feature)
        if kind in NO_CELL:
            continue
        name = class_name(properties)
        name = "" if name == IGNORED else name
        value = feature.get("geometry")
        if isinstance(value, dict) and value.get("type") in POINTS:
            found = [(x, y, x, y) for x, y in _points(value, where)]
        else:
            nucleus = feature.get("nucleusGeometry") if kind == "cell" else None
            geometry = area_of(nucleus or value, where)
            if geometry.is_empty:
                continue
            if kind == "annotation":
                corners = add_corners(corners, geometry, where)
                if name in regions or properties.get("name") in regions:
                    delimited.append(geometry)
                    continue
                areas[len(rows)] = geometry
            found = [geometry.bounds]
        boxes.extend(chain.from_iterable(found))
        classes += [known.setdefault(name, name)] * len(found)
        rows += [where] * len(found)
        if len(known) > MOST_CLASSES or len(name) > MOST_CLASSES or len(rows) > MOST_ITEMS:
            limits = f"{MOST_ITEMS:,} cells, or {MOST_CLASSES:,} classes or characters of one"
            raise InputError(f"{where}: the file holds more than {limits}; is it the right one?")
    table = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    places = (table[:, :2] + table[:, 2:]) / 2
    outlines = _outlines(table, places, areas)
    if len(outlines) and not delimited:
        first = int(outlines[0])
        raise InputError(
            f"{rows[first]}: annotation {classes[first] or 'without a class'} lies around other objects; if it"
            f" delimits what is labelled, give it the class {REGIONS[0]!r} in QuPath or name its class as a"
            " region; else delete it"
        )
    kept = np.setdiff1d(np.arange(len(table)), outlines)
    return Objects(
        boxes=table[kept],
        places=places[kept],
        points=(table[kept, :2] == table[kept, 2:]).all(1),
        classes=[classes[i] for i in kept],
        rows=[rows[i] for i in kept],
        regions=tuple(joined(delimited, str(path)).geoms) if delimited else None,
    )


def _points(value: dict[str, Any], where: str) -> list[tuple[float, float]]:
    """The points of a Point or MultiPoint."""
    pairs = value.get("coordinates")
    pairs = [pairs] if value["type"] == "Point" else pairs
    if not isinstance(pairs, list):
        raise InputError(f"{where}: points without coordinates")
    found = []
    for pair in pairs:
        numbers = pair[:2] if isinstance(pair, list) else []
        if len(numbers) < 2 or any(type(v) not in (int, float) or not abs(v) <= LIMIT for v in numbers):
            raise InputError(
                f"{where}: expected points of two numbers, pixels of full resolution; got {shown(pair, 60)}"
            )
        found.append((float(numbers[0]), float(numbers[1])))
    return found


def _outlines(
    boxes: NDArray[np.float64], places: NDArray[np.float64], areas: dict[int, shapely.Geometry]
) -> NDArray[np.int64]:
    """Positions of the annotations around other objects.

    A nucleus drawn by hand may lie over the centre of another drawn one of about its size; around two, a much smaller
    one, or what was detected, an annotation is an outline.
    """
    if not areas:
        return np.zeros(0, dtype=np.int64)
    tree = shapely.STRtree(shapely.points(places))
    sizes = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    around = []
    for position, area in areas.items():
        near = tree.query(area)  # places in its bounding box
        others = near[near != position]
        polygons = [part for part in shapely.get_parts(area) if part.geom_type in ("Polygon", "MultiPolygon")]
        within = np.zeros(len(others), dtype=bool)
        for part in polygons:
            within |= shapely.contains_xy(part, *places[others].T)
        inside = others[within]
        drawn = np.array([int(other) in areas for other in inside], dtype=bool)
        if len(inside) > 1 or not drawn.all() or (sizes[inside] < SMALLER * sizes[position]).any():
            around.append(position)
    return np.array(around, dtype=np.int64)
