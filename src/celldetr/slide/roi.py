"""Region of interest (ROI) of a slide: areas of QuPath's GeoJSON joined to one valid geometry with one text form.

A polygon that crosses itself is filled by the even-odd rule, as on the screen. The text of the geometry (WKT) stands
for it in ``PredictOptions`` and in ``run.json``: two files with the same areas give the same text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from celldetr.errors import InputError, near
from celldetr.io.geojson import AREAS, LARGEST, read_features

# QuPath's objects that are not regions drawn by somebody.
CELL_KINDS = ("detection", "cell", "tile")
SMALLEST = 1e-9  # square px of a part; what is less is rounding


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
    areas: list[shapely.Geometry] = []
    names: set[str] = set()
    cells = 0
    for feature in read_features(path):
        if feature.kind in CELL_KINDS:
            cells += 1
            continue
        names |= feature.names
        if name is None or name in feature.names:
            areas.append(feature.area())
    if areas:
        return join_areas(areas, str(path))
    if name is not None and names:
        raise InputError(f"{path}: has no annotation called {name!r}; {near(name, names)}")
    other = f", only {cells:,} cells or tiles" if cells else ""
    raise InputError(f"{path}: holds no annotation{other}; draw one in QuPath and export it as GeoJSON")


def join_areas(geometries: Sequence[shapely.Geometry], where: str) -> shapely.MultiPolygon:
    """Valid union of areas, in an order that depends on nothing but the area; ``where`` is for messages.

    Raises:
        InputError: they have no area.
    """
    try:
        parts = [part for geometry in geometries for polygon in _polygons(geometry) for part in _even_odd(polygon)]
        faces = shapely.get_parts(shapely.union_all(parts))
    except shapely.errors.GEOSException as error:
        raise InputError(f"{where}: the areas of the ROI cannot be joined ({error}); draw them anew") from None
    areas = [face for face in faces if face.geom_type == "Polygon" and face.area > SMALLEST]
    if not areas:
        raise InputError(f"{where}: the ROI has no area; expected at least one polygon that encloses pixels")
    return shapely.normalize(shapely.MultiPolygon(areas))


def _polygons(geometry: shapely.Geometry) -> list[shapely.Polygon]:
    """The polygons of a geometry of any depth."""
    if geometry.geom_type == "Polygon":
        return [geometry]
    return [polygon for part in getattr(geometry, "geoms", ()) for polygon in _polygons(part)]


def _even_odd(polygon: shapely.Polygon) -> list[shapely.Polygon]:
    """Valid polygons of what a polygon covers by the even-odd rule: faces that a ray leaves through an odd number of
    edges.

    ``make_valid`` of GEOS 3.14 differs from it where edges of different rings lie on one another.
    """
    if polygon.is_valid:
        return [polygon] if polygon.area > 0 else []
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    starts, ends = (np.concatenate([ring[cut] for ring in rings]) for cut in (slice(None, -1), slice(1, None)))
    edges = shapely.union_all(shapely.linestrings(np.stack([starts, ends], axis=1)))
    kept = []
    for face in shapely.get_parts(shapely.polygonize(shapely.get_parts(edges))):
        x, y = face.representative_point().coords[0]
        crossing = (starts[:, 1] <= y) != (ends[:, 1] <= y)
        (x0, y0), (x1, y1) = starts[crossing].T, ends[crossing].T
        if np.count_nonzero(x < x0 + (y - y0) * (x1 - x0) / (y1 - y0)) % 2:
            kept.append(face)
    return kept


def roi_text(value: object) -> str | None:
    """WKT of a geometry (or of its WKT) for ``PredictOptions.roi``, equal for equal areas.

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
    if not all(abs(edge) <= LARGEST for edge in geometry.bounds):
        raise ValueError(f"roi: expected pixels of full resolution, got coordinates in {geometry.bounds}")
    # Twenty decimals are as many as a coordinate needs to come back as it was, and no more are written than that.
    return str(shapely.to_wkt(join_areas([shapely.force_2d(geometry)], "options"), rounding_precision=20))


def place_roi(text: str | None, origin: str, bounds: Sequence[int] | None) -> shapely.MultiPolygon | None:
    """The geometry of a ROI's WKT in level-0 pixels of the slide; None without a ROI.

    Its coordinates count from the corner of ``bounds`` (x, y, width, height of what was scanned, where the slide says
    so) if ``origin`` is ``bounds``, from the slide's own if it is ``slide``.
    """
    if text is None:
        return None
    geometry = shapely.from_wkt(text)
    if origin != "bounds" or bounds is None:
        return geometry
    return shapely.transform(geometry, lambda points: points + tuple(bounds[:2]))


def roi_of_run(run: Mapping[str, Any]) -> shapely.MultiPolygon | None:
    """The ROI of a run, in level-0 pixels of its slide, from the content of ``run.json``; None if it had none."""
    options = run.get("options", {})
    return place_roi(options.get("roi"), options.get("roi_origin", "slide"), run.get("bounds_px"))
