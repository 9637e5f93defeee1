"""Annotations in the JSON of other programs, as Features of GeoJSON: HoVer-Net, CellViT, LabelMe and X-AnyLabeling.

HoVer-Net (Graham et al., 2019) writes ``nuc``, a nucleus under each number, CellViT (Hoerst et al., 2024; CellViT++
alike) a list ``cells``; in both, ``bbox`` is [[row, column], [row, column]] while ``contour`` is (x, y). LabelMe and
X-AnyLabeling write a list ``shapes``. All count in pixels of full resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from celldetr.errors import InputError
from celldetr.io.geojson import AREAS, LARGEST, POINTS, Feature, read_features
from celldetr.io.json_items import read_items
from celldetr.io.safe_io import shown

Format = Literal["GeoJSON", "HoVer-Net", "CellViT", "LabelMe", "COCO", ""]
CELLVIT = "cells"  # key of the list of cells in CellViT's JSON
BOX = "bbox"  # name of a Feature whose area is a box, as the file has no contour
SHAPES = ("polygon", "rectangle", "point", "rotation", "circle", "mask")  # of LabelMe and X-AnyLabeling
CIRCLE = 32  # corners of the polygon that a circle becomes


def json_format(path: Path) -> Format:
    """What annotations a JSON file holds; "" for none that are known.

    Raises:
        InputError: no JSON, or annotations that can only be read when they are exported in another way.
    """
    key, value = next(read_items(path, "JSON"), (None, None))
    if value is None:  # an empty list
        key, value = next(read_items(path, "JSON", rest=True), (None, None))
    if key == "features":
        return "GeoJSON"
    if key == CELLVIT:
        return "CellViT"
    if isinstance(value, dict) and ("annotations" in value or "predictions" in value) and "data" in value:
        raise InputError(f"{path}: is Label Studio's own JSON; export COCO (with images) from Label Studio instead")
    if not isinstance(value, dict):
        return ""
    if value.get("type") in ("FeatureCollection", "Feature", *AREAS, *POINTS):
        return "GeoJSON"
    if isinstance(value.get("nuc"), dict):
        return "HoVer-Net"
    if isinstance(value.get("shapes"), list):
        return "LabelMe"
    return "COCO" if "images" in value or "annotations" in value else ""


def annotation_format(path: Path) -> Format:
    """What annotations a file holds: GeoJSON where its name says so, else as of ``json_format``."""
    return json_format(path) if path.name.lower().endswith((".json", ".json.gz", ".zip")) else "GeoJSON"


def read_annotations(path: Path) -> Iterator[Feature]:
    """The objects of a file of GeoJSON or of another program; of cells of programs, kind ``detection``.

    Raises:
        InputError: as of ``read_features``, for all formats.
    """
    format = annotation_format(path)
    if format == "CellViT":
        yield from _cellvit(path)
    elif format == "HoVer-Net":
        ((_, value),) = read_items(path, "JSON")
        if value.get("mag") is not None:
            # For slides HoVer-Net counts at the magnification it read, which need not be that of full resolution.
            raise InputError(
                f"{path}: its pixels are those at {value['mag']}x, which may not be full resolution; if they are, set"
                ' "mag" to null in it, else export GeoJSON'
            )
        for number, nucleus in value["nuc"].items():
            yield nucleus_of(nucleus, f"{path}: nucleus {number}", {})
    elif format == "LabelMe":
        ((_, value),) = read_items(path, "JSON")
        yield from _shapes(value["shapes"], path)
    elif format == "COCO":
        raise InputError(f"{path}: is COCO, expected GeoJSON or the cells of HoVer-Net or CellViT")
    else:
        yield from read_features(path)


def stated_size(path: Path) -> tuple[int, int] | None:
    """(width, height), px, of the image that a file says it is of, as LabelMe does; None where it does not."""
    if annotation_format(path) != "LabelMe":
        return None
    ((_, value),) = read_items(path, "JSON")
    width, height = value.get("imageWidth"), value.get("imageHeight")
    return (int(width), int(height)) if isinstance(width, int) and isinstance(height, int) else None


def _cellvit(path: Path) -> Iterator[Feature]:
    names: dict[str, str] = {}
    number = 0
    for key, value in read_items(path, "JSON", rest=True):
        if key is None:
            names |= _type_names(value)
        else:
            number += 1
            yield nucleus_of(value, f"{path}: cell {number}", names)


def _type_names(members: dict[str, Any]) -> dict[str, str]:
    for key in ("type_map", "type_names"):
        if isinstance(members.get(key), dict):
            return {str(number): str(name) for number, name in members[key].items()}
    return {}


def nucleus_of(value: Any, where: str, names: dict[str, str]) -> Feature:
    """A nucleus of HoVer-Net or CellViT; ``names`` of its numbers of types.

    Its geometry is a Polygon of the contour, or, without one, of the box; then ``name`` is ``BOX``.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with 'bbox' and 'contour', got {shown(value, 60)}")
    contour, box, score = value.get("contour"), value.get("bbox"), value.get("type_prob")
    score = float(score) if isinstance(score, int | float) and 0 <= score <= 1 else 1.0
    number = value.get("type")
    kind = "" if number is None else names.get(str(number), str(number))
    ring = _numbers(contour, where, "contour") if contour else np.zeros((0, 2))
    name = ""
    if len(np.unique(ring, axis=0)) < 3:
        if box is None:
            raise InputError(f"{where}: has neither 'bbox' nor a 'contour' of three points")
        corners = _numbers(box, where, "bbox")
        if corners.shape != (2, 2) or (corners[0] >= corners[1]).any():
            raise InputError(f"{where}: bbox {shown(box, 60)}: expected [[top, left], [bottom, right]]")
        (top, left), (bottom, right) = corners.tolist()
        ring, name = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), BOX
    return _feature(ring, kind, where, score, name)


def _shapes(shapes: list[Any], path: Path) -> Iterator[Feature]:
    """Shapes of LabelMe; those of one ``group_id`` and label are one object in several areas."""
    groups: dict[Any, list[Feature]] = {}
    for number, shape in enumerate(shapes, 1):
        feature = _shape(shape, f"{path}: shape {number}")
        group = shape.get("group_id")
        if isinstance(group, int) and not feature.has_points:
            groups.setdefault((group, feature.class_name), []).append(feature)
        else:
            yield feature
    for members in groups.values():
        areas = [feature.geometry["coordinates"] for feature in members]
        yield replace(members[0], geometry={"type": "MultiPolygon", "coordinates": areas})


def _shape(value: Any, where: str) -> Feature:
    """A shape of LabelMe or X-AnyLabeling."""
    if not isinstance(value, dict) or not isinstance(value.get("label"), str | int | None):
        raise InputError(f"{where}: expected a shape with a label and points, got {shown(value, 60)}")
    form, label = value.get("shape_type") or "polygon", value.get("label")
    if form not in SHAPES or (form == "mask" and len(value.get("points") or ()) != 2):
        raise InputError(f"{where}: is a {shown(form, 20)}; expected {', '.join(SHAPES)}: lines hold no cells")
    points = _numbers(value.get("points"), where, "points")
    label = "" if label is None else str(label)
    if form == "point":
        geometry = {"type": "MultiPoint", "coordinates": points.tolist()}
        return Feature("annotation", "", label, (), geometry, None, where)
    if form == "circle" and len(points) == 2:
        radius = math.dist(*points.tolist())
        turn = np.linspace(0, 2 * np.pi, CIRCLE, endpoint=False)
        points = points[0] + radius * np.column_stack([np.cos(turn), np.sin(turn)])
    elif form in ("rectangle", "mask") and len(points) == 2:
        (x0, y0), (x1, y1) = points.tolist()
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    return _feature(points, label, where, kind="annotation")


def _feature(
    ring: NDArray[np.float64], label: str, where: str, score: float = 1.0, name: str = "", kind: str = "detection"
) -> Feature:
    geometry = {"type": "Polygon", "coordinates": [ring.tolist()]}
    return Feature(kind, name, label, (), geometry, None, where, score)


def _numbers(value: Any, where: str, name: str) -> NDArray[np.float64]:
    """(N, 2) finite pixels."""
    try:
        points = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) <= LARGEST).all():
        raise InputError(f"{where}: {name}: expected pairs of pixels of full resolution, got {shown(value, 60)}")
    return points
