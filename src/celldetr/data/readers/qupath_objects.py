"""Annotated cells in QuPath's GeoJSON: boxes or points with classes, and the regions in which cells were labelled.

Cells are detections and cells (of a cell, its nucleus if that is drawn), the points of point annotations, and
annotations drawn around a nucleus. Annotations whose class or name the card lists as a region (``Region*``, say, which
QuPath offers) are regions. Others around other objects are outlines, not cells.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.data.nucleus_parts import nuclei_of
from celldetr.data.readers.common import SLACK
from celldetr.errors import InputError, doubt
from celldetr.io.annotation_json import annotation_format, read_annotations
from celldetr.io.geojson import NOT_CELLS, likely_classes
from celldetr.io.left_out import NAMED, LeftOut
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.roi import join_areas

REGIONS = ("Region*", "Region", "region", "train")  # class or name of a labelled area; the first is QuPath's own
IGNORED = "Ignore*"  # QuPath's class of what takes no part in a classification: a cell of unknown type
SUFFIXES = (".geojson", ".geojson.gz", ".geojson.zip")
PACKED = (*SUFFIXES, ".json", ".json.gz", ".json.zip", ".zip")  # the same as others call them
SAME_PX = 0.75  # that the edges of an object exported twice may differ
SMALLER = 0.25  # of an annotation's bounds: another of less inside makes it an outline, not a nucleus over a nucleus


@dataclass(frozen=True)
class Objects:
    """The cells of one file, in pixels of full resolution, from the corner of what was scanned (``on_slide``: level 0).

    Attributes:
        boxes: (N, 4) xyxy; of a point, twice the point.
        places: (N, 2) centre of the box, or the point.
        points: (N,) whether it is a point.
        areas: (N,) shapely areas; None of a point.
        classes: of each; "" where it has none.
        rows: of each, where it was read, for messages.
        regions: what was labelled, in parts that do not overlap; None: the file does not say.
    """

    boxes: NDArray[np.float64]
    places: NDArray[np.float64]
    points: NDArray[np.bool_]
    areas: NDArray[np.object_]
    classes: list[str]
    rows: list[str]
    regions: tuple[shapely.Polygon, ...] | None

    def on_slide(self, slide: SlideReader) -> Objects:
        """The same in level-0 pixels of a slide.

        Raises:
            InputError: a cell lies outside of it by more than ``SLACK`` pixels.
        """
        shift = np.array(slide.bounds[:2] if slide.bounds else (0, 0), dtype=np.float64)
        places, size = self.places + shift, np.array([slide.width, slide.height])
        outside = (places < -SLACK).any(1) | (places > size + SLACK).any(1)
        if outside.any():
            row = int(np.flatnonzero(outside)[0])
            raise InputError(
                f"{self.rows[row]}: lies at ({places[row, 0]:g}, {places[row, 1]:g}), outside of {slide.file}"
                f" of {slide.width} x {slide.height} px; is this its image?"
            )
        regions = self.regions
        if regions is not None:
            regions = tuple(shapely.transform(part, lambda points: points + shift) for part in regions)
        areas = shapely.transform(self.areas, lambda points: points + shift) if shift.any() else self.areas
        return replace(self, boxes=self.boxes + np.tile(shift, 2), places=places, areas=areas, regions=regions)


def read_objects(path: Path, regions: Sequence[str] = REGIONS, mpp: float | None = None) -> Objects:
    """Read a GeoJSON file as QuPath exports it, also packed, or what ``io.annotation_json`` reads.

    Args:
        path: the file.
        regions: classes or names of the annotations that delimit what was labelled.
        mpp: micrometres per pixel, by which several nuclei in one object are told from one in pieces.

    Raises:
        InputError: not GeoJSON, an object that is neither an area nor points, or an annotation around others that is no
            region while there is none.
    """
    boxes = array("d")  # four a cell; lists of tuples would take six times as much
    classes, rows, areas = list[str](), list[str](), list[shapely.Geometry | None]()
    annotations: dict[int, shapely.Geometry] = {}  # position -> area
    delimited = []
    left, divided = LeftOut(path), LeftOut(path, "divided into nuclei")
    whole, with_nucleus = LeftOut(path, "whole cells taken for nuclei"), False
    ignored = set[int]()  # positions of objects of the class Ignore*
    names = set[str]()  # of objects without a class
    planes = set[tuple[int, int]]()
    for feature in read_annotations(path):
        if feature.kind in NOT_CELLS:
            if feature.kind != "root":
                left.add(f"objects of the kind {feature.kind}", short(feature.where))
            continue
        planes.add(feature.plane)
        if feature.kind == "cell":
            with_nucleus |= feature.nucleus is not None
            if feature.nucleus is None:
                whole.add("cells without a nucleus, beside cells with one", short(feature.where))
        if feature.has_points:
            bounds = np.tile(feature.points(), 2)
            areas += [None] * len(bounds)
        else:
            area = feature.area()
            if area.is_empty:
                left.add("objects without an area", short(feature.where))
                continue
            if feature.kind == "annotation" and not {feature.class_name, feature.name}.isdisjoint(regions):
                delimited.append(area)
                continue
            parts = nuclei_of(area, mpp)
            if len(parts) > 1:
                divided.add(f"objects of several areas, now {len(parts)} nuclei", short(feature.where))
            if feature.kind == "annotation":
                annotations.update(enumerate(parts, len(rows)))
            bounds = np.array([part.bounds for part in parts])
            areas += parts
        boxes.extend(bounds.ravel().tolist())
        if feature.class_name == IGNORED:
            ignored.update(range(len(rows), len(rows) + len(bounds)))
        name = "" if feature.class_name == IGNORED else sys.intern(feature.class_name)  # one text a class, not a cell
        classes += [name] * len(bounds)
        rows += [feature.where] * len(bounds)
        if not feature.class_name and feature.name:
            names.add(feature.name)
    table = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    if len(table) > 2 and table.max() <= 1:
        raise InputError(f"{path}: all places lie between {table.min():g} and {table.max():g}; expected pixels")
    places = (table[:, :2] + table[:, 2:]) / 2
    outlines = _outlines(table, places, annotations)
    if len(outlines) and not delimited:
        first = int(outlines[0])
        raise InputError(
            f"{rows[first]}: annotation {classes[first] or 'without a class'} lies around other objects; if it"
            f" delimits what is labelled, give it the class {REGIONS[0]!r} in QuPath or name its class as a"
            " region; else delete it"
        )
    for i in outlines.tolist():
        left.add("annotations around others that are no region", short(rows[i]))
    repeated = _points_on_nuclei(table, places, areas, classes, outlines)
    if len(repeated):
        left.add("points on drawn nuclei, whose class the nucleus takes if it has none", count=len(repeated))
    left.tell()
    divided.tell()
    if with_nucleus:
        whole.tell()
    if names and not any(classes) and len(names) <= max(1, len(rows) // 2):
        some = ", ".join(map(repr, sorted(names)[:NAMED]))
        doubt(f"{path}: no object has a class, but objects have names ({some}); names are not read as types")
    elif rows and not any(classes) and annotation_format(path) == "GeoJSON":
        for key, values in likely_classes(path).items():
            some = ", ".join(map(repr, values[:NAMED]))
            doubt(f"{path}: no object has a class; if they are in {key!r} ({some}), call it classification")
    if len(planes) > 1:
        doubt(f"{path}: objects of {len(planes)} planes (z, t) of a stack are read as if they lay in one")
    kept = np.setdiff1d(np.arange(len(table)), [*outlines, *repeated])
    region = join_areas(delimited, str(path)) if delimited else None
    if region is not None and (without := [annotations[i] for i in outlines.tolist() if i in ignored]):
        region = join_areas([shapely.difference(region, join_areas(without, str(path)))], str(path))
    return Objects(
        boxes=table[kept],
        places=places[kept],
        points=(table[kept, :2] == table[kept, 2:]).all(1),
        areas=np.array([*areas, None], dtype=np.object_)[kept],  # not without None: an array of no objects
        classes=[classes[i] for i in kept],
        rows=[rows[i] for i in kept],
        regions=None if region is None else tuple(region.geoms),
    )


def _points_on_nuclei(
    boxes: NDArray[np.float64],
    places: NDArray[np.float64],
    areas: list[shapely.Geometry | None],
    classes: list[str],
    outlines: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Positions of points that lie in the area of a nucleus: the same, marked twice. Its class is filled in."""
    is_point = (boxes[:, :2] == boxes[:, 2:]).all(1)
    points, drawn = np.flatnonzero(is_point), np.setdiff1d(np.flatnonzero(~is_point), outlines)
    if not len(points) or not len(drawn):
        return np.zeros(0, dtype=np.int64)
    tree = shapely.STRtree([areas[i] for i in drawn])
    which, on = tree.query(shapely.points(places[points]), predicate="intersects")
    for point, nucleus in zip(points[which].tolist(), drawn[on].tolist(), strict=True):
        classes[nucleus] = classes[nucleus] or classes[point]
    return np.unique(points[which])


def short(where: str) -> str:
    """``object 5`` of where an object was read."""
    return where.rpartition(": ")[2]


def _outlines(
    boxes: NDArray[np.float64], places: NDArray[np.float64], annotations: Mapping[int, shapely.Geometry]
) -> NDArray[np.int64]:
    """Positions of the annotations around other objects.

    A nucleus drawn by hand may lie over the centre of another of about its size; an annotation around two, a much
    smaller one, or a detected one is an outline.
    """
    if not annotations:
        return np.zeros(0, dtype=np.int64)
    tree = shapely.STRtree(shapely.points(places))
    sizes = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    around = []
    for position, area in annotations.items():
        near = tree.query(area)  # places in its bounding box
        others = near[near != position]
        within = np.zeros(len(others), dtype=bool)
        for part in shapely.get_parts(area):
            within |= shapely.contains_xy(part, *places[others].T)
        # The same object once more, as a detection, is no other.
        same = (np.abs(boxes[others] - boxes[position]) <= SAME_PX).all(1)
        inside = others[within & ~same]
        drawn = np.array([int(other) in annotations for other in inside], dtype=bool)
        if len(inside) > 1 or not drawn.all() or (sizes[inside] < SMALLER * sizes[position]).any():
            around.append(position)
    return np.array(around, dtype=np.int64)
