"""Region of interest (ROI) of a slide: areas of QuPath's GeoJSON joined to one geometry, and what lies inside it.

A polygon that crosses itself is filled by the even-odd rule, as on the screen. The text of the geometry (WKT) stands
for it in ``PredictOptions`` and in ``run.json``: two files with the same areas give the same text.

A cell is inside if its centre is, outlines and the edges of holes included: exactly what filtering the whole slide
would leave. The ROI decides which tiles are read, not where they lie; their cells outside take part in the suppression
at seams and are then dropped, as one of them can be a nucleus that a neighbouring tile must not report again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from celldetr.errors import InputError, doubt, near
from celldetr.io.geojson import AREAS, LARGEST, read_features

# QuPath's objects that are not regions drawn by somebody.
CELL_KINDS = ("detection", "cell", "tile", "root")
IGNORED = "Ignore*"  # QuPath's class of what is to take no part
ROUNDING = 1e-9  # share of a block that may be missing if it is wholly inside
SMALLEST = 1e-9  # square px of a part; what is less is rounding


def read_roi(path: Path | str, name: str | None = None) -> shapely.MultiPolygon:
    """Read the areas of a GeoJSON file (also packed) and join them, without those of the class ``Ignore*``.

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
    ignored: list[shapely.Geometry] = []
    names: set[str] = set()
    classes: set[str] = set()
    cells = 0
    for feature in read_features(path):
        if feature.kind in CELL_KINDS:
            cells += 1
            continue
        names |= feature.names
        if name is None and feature.class_name == IGNORED:
            ignored.append(feature.area())
        elif name is None or name in feature.names:
            areas.append(feature.area())
            classes.add(feature.class_name or "none")
    if len(classes) > 1 and name is None:
        some = ", ".join(sorted(classes)[:5])
        doubt(f"{path}: annotations of {len(classes)} classes ({some}) make the region; for one, give `roi_name`")
    if areas and ignored:
        doubt(f"{path}: {len(ignored)} annotations of the class {IGNORED} are cut out of the region")
        rest = shapely.difference(join_areas(areas, str(path)), join_areas(ignored, str(path)))
        return join_areas([rest], str(path))
    if areas:
        return join_areas(areas, str(path))
    if name is not None and names:
        raise InputError(f"{path}: has no annotation called {name!r}; {near(name, names)}")
    other = f", only {cells:,} cells or tiles" if cells else ""
    raise InputError(f"{path}: holds no annotation{other}; draw one in QuPath and export it as GeoJSON")


def join_areas(geometries: Sequence[shapely.Geometry], where: str) -> shapely.MultiPolygon:
    """Valid union of areas, in an order that depends on nothing but the area; ``where`` is for messages."""
    try:
        parts = [part for geometry in geometries for polygon in _polygons(geometry) for part in _even_odd(polygon)]
        faces = shapely.get_parts(shapely.union_all(parts))
    except shapely.errors.GEOSException as error:
        raise InputError(f"{where}: the areas of the ROI cannot be joined ({error}); draw them anew") from None
    areas = [face for face in faces if face.geom_type == "Polygon" and face.area > SMALLEST]
    if not areas:
        raise InputError(f"{where}: the ROI has no area; expected at least one polygon that encloses pixels")
    if sum(area.area for area in areas) < 1:
        raise InputError(f"{where}: the ROI is smaller than a pixel; expected pixels of full resolution as coordinates")
    return shapely.normalize(shapely.MultiPolygon(areas))


def _polygons(geometry: shapely.Geometry) -> list[shapely.Polygon]:
    """The polygons of a geometry of any depth."""
    if geometry.geom_type == "Polygon":
        return [geometry]
    return [polygon for part in getattr(geometry, "geoms", ()) for polygon in _polygons(part)]


def _even_odd(polygon: shapely.Polygon) -> list[shapely.Polygon]:
    """Valid polygons of what a polygon covers by the even-odd rule.

    These are the faces that a ray leaves through an odd number of edges. ``make_valid`` of GEOS 3.14 differs where
    edges of different rings lie on one another.
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
    """WKT of a geometry (or of its WKT) for ``PredictOptions.roi``, equal for equal areas."""
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


@dataclass(frozen=True)
class RoiCells:
    """A region of interest on a slide."""

    geometry: shapely.MultiPolygon  # in level-0 pixels
    # level-0 pixels along x and y within which a cell outside can decide about one inside (``seams.influence``)
    influence: tuple[float, float]

    def __post_init__(self) -> None:
        shapely.prepare(self.geometry)

    def inside(self, centres: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N, 2) level-0 pixels -> (N,) whether each lies in the region or on its outline."""
        return np.asarray(shapely.intersects_xy(self.geometry, centres[:, 0], centres[:, 1]), dtype=bool)

    def touches(self, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N, 4) xyxy that tiles own, level-0 pixels -> (N,) whether each must be read."""
        x, y = self.influence
        grown = shapely.box(*(boxes + np.array([-x, -y, x, y])).T)
        return np.asarray(shapely.intersects(self.geometry, grown), dtype=bool)


def share_of_pixels(
    geometry: shapely.Geometry, shape: tuple[int, int], scale: tuple[float, float]
) -> NDArray[np.float32]:
    """How much of each pixel of a mask of ``scale`` level-0 pixels a pixel lies inside a geometry -> (h, w), 0 to 1.

    Blocks on the outline are cut in four with their piece of it, down to single pixels, so that a long outline is not
    gone through once a pixel.
    """
    share = np.zeros(shape, dtype=np.float32)
    size = 1 << max(0, max(shape) - 1).bit_length()
    corners = np.zeros((1, 2), dtype=np.int64)  # column, row
    parts = np.array([geometry], dtype=object)
    while len(corners):
        low, high = corners * np.array(scale), (corners + size) * np.array(scale)
        boxes = shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1])
        parts = _areas(shapely.intersection(parts, boxes))
        inside = shapely.area(parts) / (size**2 * scale[0] * scale[1])
        if size == 1:
            share[corners[:, 1], corners[:, 0]] = inside
            break
        whole = inside > 1 - ROUNDING
        for column, row in corners[whole]:
            share[row : row + size, column : column + size] = 1
        cut = (inside > 0) & ~whole
        size //= 2
        steps = np.array([[0, 0], [size, 0], [0, size], [size, size]])
        corners = (corners[cut][:, None] + steps).reshape(-1, 2)
        parts = np.repeat(parts[cut], 4)
        on_mask = (corners[:, 0] < shape[1]) & (corners[:, 1] < shape[0])
        corners, parts = corners[on_mask], parts[on_mask]
    return share


def _areas(parts: NDArray[np.object_]) -> NDArray[np.object_]:
    """Geometries without the points and lines where a box only touches an outline."""
    for i in np.flatnonzero(shapely.get_type_id(parts) == shapely.GeometryType.GEOMETRYCOLLECTION):
        pieces = [piece for piece in shapely.get_parts(parts[i]) if piece.area > 0]
        parts[i] = shapely.union_all(pieces)
    return parts
