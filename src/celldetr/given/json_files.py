"""Cells from JSON of other programs: QuPath's GeoJSON, and what CellViT, HoVer-Net, LabelMe and X-AnyLabeling write.

CellViT writes ``cells.json`` (contours), ``cell_detection.json`` (boxes only) and both as GeoJSON, one MultiPolygon or
MultiPoint a type. All is in pixels of full resolution (``io.annotation_json``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from celldetr.data.nucleus_parts import nuclei_of
from celldetr.data.readers.qupath_objects import PACKED, REGIONS
from celldetr.errors import InputError, doubt
from celldetr.given.cells import NOT_UNIQUE, GivenCells, text_or_whole
from celldetr.io.annotation_json import BOX, annotation_format, read_annotations
from celldetr.io.geojson import NOT_CELLS, Feature
from celldetr.io.left_out import LeftOut

SAME_PX = 0.75  # that edges of a nucleus that is in a file twice may differ
PIECE = 0.1  # of the largest piece's area; what is smaller is a flaw of the drawing
POINT_UM = 7.0  # diameter that a point stands for: about that of a lymphocyte's nucleus


Kind = Literal["outline", "box", "point", "annotation", "region"]


class _Object(NamedTuple):
    """An object of a file: a nucleus by its outline, a box or a point, an annotation that may be one, or a region."""

    kind: Kind
    area: shapely.Geometry  # of a point, the box that it stands for
    score: float = 1.0


def json_cells(
    path: Path, mpp: tuple[float, float], origin: tuple[float, float] = (0.0, 0.0), *, repeated: bool = False
) -> GivenCells:
    """Read cells of QuPath's GeoJSON or of the JSON of CellViT, HoVer-Net, LabelMe or X-AnyLabeling, also packed.

    Of a QuPath cell its nucleus is taken if it has one. Annotations count where there are no detections and cells;
    regions (by class, or because several others lie in them) are left out. A point stands for a nucleus of
    ``POINT_UM`` um without a polygon. An object of several nuclei gives each its id and a number: ``id/1``.

    Args:
        path: the file.
        mpp: micrometres per level-0 pixel of the image along x and y, for points.
        origin: level-0 pixel that the file's coordinates count from: the corner of ``reader.bounds`` for QuPath's
            coordinates of a slide that has such.
        repeated: keep nuclei that are there twice.

    Returns:
        The cells; ``only_points`` if all are. ``source`` counts what has no outline, and regions.
    """
    if not path.name.lower().endswith(PACKED):
        raise InputError(
            f"{path}: expected nuclei as {', '.join(PACKED)} (of CellViT without --compression), or the cells.parquet"
            " of celldetr predict"
        )
    objects: list[_Object] = []
    ids: list[str] = []
    half = POINT_UM / 2 / np.array(mpp)
    resolution = float(np.sqrt(np.prod(mpp)))
    format = annotation_format(path)
    left, divided = LeftOut(path), LeftOut(path, "divided into nuclei")
    whole, with_nucleus = LeftOut(path, "whole cells taken for nuclei"), False
    for feature in read_annotations(path):
        if feature.kind in NOT_CELLS:
            if feature.kind != "root":
                left.add(f"objects of the kind {feature.kind}", feature.where.rpartition(": ")[2])
            continue
        if feature.kind == "cell":
            with_nucleus |= feature.nucleus is not None
            if feature.nucleus is None:
                whole.add("cells without a nucleus, beside cells with one", feature.where.rpartition(": ")[2])
        found = _objects(feature, half, resolution)
        if len(found) > 1 and not feature.has_points:
            divided.add(f"objects of several areas, now {len(found)} nuclei", feature.where.rpartition(": ")[2])
        objects += found
        ids += [feature.id] if len(found) == 1 else [f"{feature.id}/{i}" for i in range(1, len(found) + 1)]
    kinds = np.array([each.kind for each in objects], dtype=object)
    areas = _valid(np.array([each.area for each in objects], dtype=object))
    empty = shapely.is_missing(areas)
    kept = ~empty & np.isin(kinds.astype(str), ("outline", "box", "point"))
    if not kept.any():
        kept = ~empty & (kinds == "annotation") & ~_holds_others(areas)
    marks = _marks(areas, kept & (kinds == "point"), kept & (kinds != "point"))
    kept &= ~marks
    repeats = np.zeros(len(areas), dtype=bool) if repeated else _repeats(areas, kept)
    for what, which in (
        ("objects without an area", empty),
        ("points on nuclei that are there", marks),
        ("regions and annotations around others or beside detections", ~kept & ~empty & ~marks),
        ("nuclei that are there twice, counted once", repeats),
    ):
        if which.any():
            left.add(what, count=int(which.sum()))
    left.tell()
    divided.tell()
    if with_nucleus:
        whole.tell()
    kept &= ~repeats
    regions = int((~kept & ~repeats & ~marks).sum())
    if not kept.any():
        what = f", only {regions} regions" if regions else ""
        raise InputError(f"{path}: holds no nuclei{what}; export detections of QuPath, or cells.json of CellViT")
    areas = shapely.transform(areas[kept], lambda xy: xy + np.asarray(origin))
    has_outline = ~np.isin(kinds[kept].astype(str), ("box", "point"))
    source = {
        "format": format,
        "without outline": int((~has_outline).sum()),
        "file": path.name,
        "regions": regions,
    }
    scores = np.array([each.score for each in objects], dtype=np.float32)[kept]
    boxes = shapely.bounds(areas)
    only_points = bool((kinds[kept] == "point").all())
    if only_points:
        boxes = np.tile((boxes[:, :2] + boxes[:, 2:]) / 2, 2)
    areas[~has_outline] = None
    known = np.array(ids, dtype=object)[kept]
    unique = all(known) and len(set(known)) == len(known) and not any(each.startswith("/") for each in known)
    numbers = text_or_whole(known.tolist()) if unique else np.arange(len(known))
    if repeated and not unique and any(each and not each.startswith("/") for each in known):
        doubt(f"{path}: {NOT_UNIQUE}")
    return GivenCells(boxes, numbers, scores, areas, only_points, source)


def _objects(feature: Feature, half: NDArray[np.float64], mpp: float) -> list[_Object]:
    """Objects of a Feature; ``half`` is half of the box of a point, px along x and y."""
    if feature.has_points:
        points = feature.points()
        return [_Object("point", box) for box in shapely.box(*(points - half).T, *(points + half).T)]
    if feature.name == BOX and feature.kind == "detection":
        return [_Object("box", feature.area(), feature.score)]
    if not {feature.name, feature.class_name}.isdisjoint(REGIONS):
        return [_Object("region", feature.area())]
    # CellViT puts all nuclei of a type into one MultiPolygon. The pieces of one nucleus are kept by their hull.
    parts = nuclei_of(feature.area(), mpp)
    whole = [part.convex_hull if part.geom_type == "MultiPolygon" else part for part in parts]
    kind: Kind = "outline" if feature.kind in ("detection", "cell") else "annotation"
    return [_Object(kind, area, feature.score) for area in whole]


def _marks(areas: NDArray[np.object_], points: NDArray[np.bool_], drawn: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,) whether one of the ``points`` lies in an area that is ``drawn``: it says something of that nucleus."""
    rows, marks = np.flatnonzero(points), np.zeros(len(areas), dtype=bool)
    found, _ = shapely.STRtree(areas[drawn]).query(shapely.centroid(areas[rows]), predicate="intersects")
    marks[rows[found]] = True
    return marks


def _repeats(areas: NDArray[np.object_], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,) whether an area that is kept has the bounds of an earlier one."""
    repeats = np.zeros(len(areas), dtype=bool)
    rows = np.flatnonzero(kept)
    bounds = shapely.bounds(areas[rows]).reshape(-1, 4)
    pairs = cKDTree(bounds).query_pairs(SAME_PX, p=np.inf, output_type="ndarray")
    for first, second in sorted(pairs.tolist()):
        if not repeats[rows[first]]:
            repeats[rows[second]] = True
    return repeats


def _valid(areas: NDArray[np.object_]) -> NDArray[np.object_]:
    """Each as one valid polygon, around the larger of its parts; None where nothing has an area."""
    out = areas.copy()
    invalid = np.flatnonzero(~shapely.is_valid(out))
    out[invalid] = shapely.make_valid(out[invalid])
    for position in np.flatnonzero(shapely.get_type_id(out) != shapely.GeometryType.POLYGON):  # few
        parts = shapely.get_parts(shapely.get_parts(out[position]))  # of collections of MultiPolygons
        sizes = shapely.area(parts)
        large = parts[sizes > PIECE * sizes.max(initial=0)]  # both halves of a ring that crosses itself
        out[position] = shapely.union_all(large).convex_hull if len(large) > 1 else next(iter(large), None)
    out[shapely.area(out) == 0] = None
    return out


def _holds_others(areas: NDArray[np.object_]) -> NDArray[np.bool_]:
    """(N,) whether an area has the centres of two others or more in it: a region, not a nucleus."""
    bounds = shapely.bounds(areas[~shapely.is_missing(areas)])
    centres = shapely.points((bounds[:, :2] + bounds[:, 2:]) / 2)
    holder, _ = shapely.STRtree(centres).query(areas, predicate="intersects")
    return np.bincount(holder, minlength=len(areas)) > 2  # its own, mostly
