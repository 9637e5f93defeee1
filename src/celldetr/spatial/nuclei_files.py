"""Nuclei from files of other programs: QuPath's GeoJSON, and what CellViT and HoVer-Net write.

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
from celldetr.errors import InputError
from celldetr.io.annotation_json import BOX, annotation_format, read_annotations
from celldetr.io.geojson import NOT_CELLS, Feature
from celldetr.io.left_out import LeftOut
from celldetr.spatial.affine import Floats, Mpp, pixel_scale
from celldetr.spatial.section import Nuclei, Polygons

SAME_PX = 0.75  # that edges of a nucleus that is in a file twice may differ
POINT_UM = 7.0  # diameter that a point stands for: about that of a lymphocyte's nucleus


Kind = Literal["outline", "box", "annotation", "region"]


class _Object(NamedTuple):
    """An object of a file: a nucleus by its outline or by a box, an annotation that may be either, or a region."""

    kind: Kind
    area: shapely.Geometry
    score: float = 1.0


def nuclei_from_file(path: Path | str, mpp: Mpp, origin: tuple[float, float] = (0.0, 0.0)) -> Nuclei:
    """Read nuclei of QuPath's GeoJSON or of the JSON of CellViT, HoVer-Net, LabelMe or X-AnyLabeling, also packed.

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
    if not path.name.lower().endswith(PACKED):
        raise InputError(
            f"{path}: expected nuclei as {', '.join(PACKED)} (of CellViT without --compression), or the cells.parquet"
            " of celldetr predict"
        )
    objects: list[_Object] = []
    half = POINT_UM / 2 / pixel_scale(mpp)
    resolution = float(np.sqrt(np.prod(pixel_scale(mpp))))
    format = annotation_format(path)
    left, divided = LeftOut(path), LeftOut(path, "divided into nuclei")
    for feature in read_annotations(path):
        if feature.kind in NOT_CELLS:
            if feature.kind != "root":
                left.add(f"objects of the kind {feature.kind}", feature.where.rpartition(": ")[2])
            continue
        found = _objects(feature, half, resolution)
        if len(found) > 1 and not feature.has_points:
            divided.add(f"objects of several areas, now {len(found)} nuclei", feature.where.rpartition(": ")[2])
        objects += found
    kinds = np.array([each.kind for each in objects], dtype=object)
    areas = _valid(np.array([each.area for each in objects], dtype=object))
    empty = shapely.is_missing(areas)
    kept = ~empty & np.isin(kinds.astype(str), ("outline", "box"))
    if not kept.any():
        kept = ~empty & (kinds == "annotation") & ~_holds_others(areas)
    repeats = _repeats(areas, kept)
    for what, which in (
        ("objects without an area", empty),
        ("regions and annotations around others or beside detections", ~kept & ~empty),
        ("nuclei that are there twice, counted once", repeats),
    ):
        if which.any():
            left.add(what, count=int(which.sum()))
    left.tell()
    divided.tell()
    kept &= ~repeats
    regions = int((~kept & ~repeats).sum())
    if not kept.any():
        what = f", only {regions} regions" if regions else ""
        raise InputError(f"{path}: holds no nuclei{what}; export detections of QuPath, or cells.json of CellViT")
    areas = shapely.transform(areas[kept], lambda xy: xy + np.asarray(origin))
    has_outline = kinds[kept] != "box"
    source = {
        "format": format,
        "without outline": int((~has_outline).sum()),
        "file": path.name,
        "regions": regions,
    }
    scores = np.array([each.score for each in objects], dtype=np.float32)[kept]
    boxes = shapely.bounds(areas).astype(np.float32)
    if format == "CellViT" and not has_outline.any():
        return Nuclei(boxes, scores, None, source)
    areas[~has_outline] = None
    return Nuclei(boxes, scores, areas, source)


def _objects(feature: Feature, half: Floats, mpp: float) -> list[_Object]:
    """Objects of a Feature; ``half`` is half of the box of a point, px along x and y."""
    if feature.has_points:
        points = feature.points()
        return [_Object("box", box) for box in shapely.box(*(points - half).T, *(points + half).T)]
    if feature.name == BOX and feature.kind == "detection":
        return [_Object("box", feature.area(), feature.score)]
    if not {feature.name, feature.class_name}.isdisjoint(REGIONS):
        return [_Object("region", feature.area())]
    # CellViT puts all nuclei of a type into one MultiPolygon. The pieces of one nucleus are kept by their hull.
    parts = nuclei_of(feature.area(), mpp)
    whole = [part.convex_hull if part.geom_type == "MultiPolygon" else part for part in parts]
    kind: Kind = "outline" if feature.kind in ("detection", "cell") else "annotation"
    return [_Object(kind, area, feature.score) for area in whole]


def _repeats(areas: Polygons, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,) whether an area that is kept has the bounds of an earlier one."""
    repeats = np.zeros(len(areas), dtype=bool)
    rows = np.flatnonzero(kept)
    bounds = shapely.bounds(areas[rows]).reshape(-1, 4)
    pairs = cKDTree(bounds).query_pairs(SAME_PX, p=np.inf, output_type="ndarray")
    for first, second in sorted(pairs.tolist()):
        if not repeats[rows[first]]:
            repeats[rows[second]] = True
    return repeats


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
