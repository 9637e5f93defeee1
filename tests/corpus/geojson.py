"""QuPath's GeoJSON, and what other programs make of it."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import shapely

from corpus.scene import (
    HEIGHT,
    MPP,
    NUCLEI,
    WIDTH,
    Nucleus,
    case,
    collection,
    feature,
    features,
    qupath_twin,
    save,
    write_json,
    write_text,
)  # fmt: skip


def shape(geometry: shapely.Geometry) -> Any:
    return json.loads(shapely.to_geojson(geometry))


def write(folder: Path, items: list[dict[str, Any]], name: str = "a.geojson") -> None:
    save(folder / "a.png")
    write_json(folder / name, collection(items))


@case("left out", qupath_twin)
def children_of_an_annotation(folder: Path) -> None:
    region = {"type": "Feature", "geometry": shape(shapely.box(0, 0, WIDTH, HEIGHT)), "childObjects": features()}
    region["properties"] = {"objectType": "annotation", "classification": {"name": "Region*"}}
    write(folder, [region])


@case("left out", qupath_twin)
def children_of_a_root_in_its_properties(folder: Path) -> None:
    root = {"type": "Feature", "geometry": shape(shapely.box(0, 0, WIDTH, HEIGHT))}
    root["properties"] = {"objectType": "root", "childObjects": features()}
    write(folder, [root])


def by_kind(kind: str) -> shapely.MultiPolygon:
    return shapely.MultiPolygon([n.polygon for n in NUCLEI if n.kind == kind])


@case("several in one", qupath_twin)
def one_multipolygon_a_type(folder: Path) -> None:
    """As CellViT writes it."""
    kinds = ("immune", "tumour")
    items = [
        {"type": "Feature", "geometry": shape(by_kind(k)), "properties": {"classification": {"name": k}}} for k in kinds
    ]
    write(folder, items)


@case("several in one", qupath_twin)
def one_multipolygon_a_type_as_detections(folder: Path) -> None:
    kinds = ("immune", "tumour")
    write(
        folder,
        [
            {
                "type": "Feature",
                "geometry": shape(by_kind(k)),
                "properties": {"objectType": "detection", "classification": {"name": k}},
            }
            for k in kinds
        ],
    )


@case("several in one", qupath_twin)
def a_collection_of_polygons(folder: Path) -> None:
    kinds = ("immune", "tumour")
    items = [
        {
            "type": "Feature",
            "geometry": {"type": "GeometryCollection", "geometries": [shape(n.polygon) for n in NUCLEI if n.kind == k]},
            "properties": {"classification": {"name": k}},
        }
        for k in kinds
    ]
    write(folder, items)


@case("several in one", qupath_twin)
def nuclei_in_two_pieces(folder: Path) -> None:
    """A gap of a pixel and a half through each."""
    items = features()
    for n, item in zip(NUCLEI, items, strict=True):
        gap = shapely.box(n.x - 0.75, 0, n.x + 0.75, HEIGHT)
        item["geometry"] = shape(n.polygon.difference(gap))
    write(folder, items)


@case("several in one", qupath_twin)
def nuclei_with_a_crumb(folder: Path) -> None:
    items = features()
    for n, item in zip(NUCLEI, items, strict=True):
        body = n.polygon.intersection(shapely.box(0, 0, n.x + 0.99 * n.a, HEIGHT))
        crumb = shapely.box(n.x + 0.75 * n.a, n.y + 0.75 * n.b, n.x + 0.95 * n.a, n.y + 0.95 * n.b)
        item["geometry"] = shape(shapely.MultiPolygon([body, crumb]))
    write(folder, items)


def _touching(split: bool) -> list[dict[str, Any]]:
    items = features()
    for x in (40.0, 80.0):
        pair = [Nucleus(x, 8, 7, 6.5, "tumour"), Nucleus(x + 14.6, 8, 7, 6.5, "tumour")]
        one = feature(pair[0])
        one["geometry"] = shape(shapely.MultiPolygon([n.polygon for n in pair]))
        items += [feature(n) for n in pair] if split else [one]
    return items


def touching_twin(folder: Path) -> Path:
    write(folder, _touching(True))
    return folder


@case("several in one", touching_twin)
def pairs_of_touching_nuclei(folder: Path) -> None:
    write(folder, _touching(False))


@case("twice", qupath_twin, "read", "twice")
def every_object_exported_twice(folder: Path) -> None:
    write(folder, features() * 2)


@case("twice", qupath_twin, "read", "twice")
def detections_also_as_annotations_rounded(folder: Path) -> None:
    rounded = [feature(Nucleus(n.x + 0.1, n.y - 0.1, n.a, n.b, n.kind), "annotation") for n in NUCLEI]
    write(folder, features() + rounded)


@case("classes", qupath_twin)
def classification_as_json_text(folder: Path) -> None:
    """As geopandas and GDAL write it."""
    write(folder, [feature(n, classification=json.dumps({"name": n.kind, "color": [1, 2, 3]})) for n in NUCLEI])


@case("classes", qupath_twin)
def classification_as_python_text(folder: Path) -> None:
    write(folder, [feature(n, classification=str({"name": n.kind, "color": [1, 2, 3]})) for n in NUCLEI])


for key in ("type", "class", "label", "cell_type", "class_name", "category"):

    def make(folder: Path, key: str = key) -> None:
        write(folder, [feature(n, **{key: n.kind}) for n in NUCLEI])

    make.__name__ = f"class_in_{key}_of_the_properties"
    case("classes", qupath_twin)(make)


def without_classes(folder: Path) -> Path:
    write(folder, [feature(n, isLocked=False) for n in NUCLEI])
    return folder


@case("classes", without_classes)
def no_class_at_all(folder: Path) -> None:
    without_classes(folder)


@case("classes", without_classes, "either", "name")
def class_in_the_name_of_annotations(folder: Path) -> None:
    write(folder, [feature(n, "annotation", name=n.kind) for n in NUCLEI])


@case("names", qupath_twin)
def json_suffix(folder: Path) -> None:
    write(folder, features(), "a.json")


@case("names", qupath_twin)
def zipped(folder: Path) -> None:
    save(folder / "a.png")
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.geojson", json.dumps(collection(features())))


@case("names", qupath_twin)
def zipped_with_both_suffixes(folder: Path) -> None:
    save(folder / "a.png")
    with zipfile.ZipFile(folder / "a.geojson.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.geojson", json.dumps(collection(features())))


@case("names", qupath_twin)
def gzipped_json(folder: Path) -> None:
    save(folder / "a.png")
    (folder / "a.json.gz").write_bytes(gzip.compress(json.dumps(collection(features())).encode()))


@case("names", qupath_twin)
def upper_case_geojson(folder: Path) -> None:
    write(folder, features(), "A.GEOJSON")


@case("encoding", qupath_twin)
def geojson_in_utf_16(folder: Path) -> None:
    save(folder / "a.png")
    write_text(folder / "a.geojson", json.dumps(collection(features())), "utf-16")


@case("left out", qupath_twin, "read", "tile")
def tiles_among_cells(folder: Path) -> None:
    tile = feature(NUCLEI[0], "tile")
    write(folder, [*features(), tile, tile])


def left_half(folder: Path) -> Path:
    region = {"type": "Feature", "geometry": shape(shapely.box(0, 0, WIDTH / 2, HEIGHT))}
    region["properties"] = {"objectType": "annotation", "classification": {"name": "Region*"}}
    write(folder, [*(feature(n) for n in NUCLEI if n.x < WIDTH / 2), region])
    return folder


@case("left out", left_half, "read", "outside|region")
def cells_outside_of_the_region(folder: Path) -> None:
    region = {"type": "Feature", "geometry": shape(shapely.box(0, 0, WIDTH / 2, HEIGHT))}
    region["properties"] = {"objectType": "annotation", "classification": {"name": "Region*"}}
    write(folder, [*features(), region])


@case("unit", None, "refused", None)
def geojson_in_micrometres(folder: Path) -> None:
    items = features()
    for n, item in zip(NUCLEI, items, strict=True):
        item["geometry"] = shape(shapely.transform(n.polygon, lambda xy: xy * MPP / 2))
    write(folder, items)


@case("left out", None, "refused", "slide.vsi.*bfconvert")
def labels_of_a_slide_that_cannot_be_read(folder: Path) -> None:
    write(folder, features(), "slide.geojson")
    (folder / "slide.vsi").write_bytes(b"II*\0")


@case("left out", None, "refused", "a.geojson")
def labels_that_are_the_only_broken_link(folder: Path) -> None:
    save(folder / "a.png")
    (folder / "a.geojson").symlink_to(folder / "nowhere")


@case("twice", qupath_twin, "read", "points on drawn nuclei")
def points_that_say_the_class_of_detections(folder: Path) -> None:
    items = [feature(n, isLocked=False) for n in NUCLEI]
    for kind in ("immune", "tumour"):
        places = [[n.x + 1.5, n.y - 1] for n in NUCLEI if n.kind == kind]
        marks = {"type": "Feature", "geometry": {"type": "MultiPoint", "coordinates": places}}
        marks["properties"] = {"objectType": "annotation", "classification": {"name": kind}}
        items.append(marks)
    write(folder, items)


def unclassified(folder: Path) -> Path:
    write(folder, [feature(n, isLocked=False) if n.kind == "immune" else feature(n) for n in NUCLEI])
    return folder


@case("missing", unclassified, "read", "no class")
def none_as_a_class(folder: Path) -> None:
    write(folder, [feature(n, classification="None" if n.kind == "immune" else n.kind) for n in NUCLEI])


@case("left out", left_half, "read", "outside")
def half_of_the_region_to_be_ignored(folder: Path) -> None:
    items = features()
    for name, box in {"Region*": (0, 0, WIDTH, HEIGHT), "Ignore*": (WIDTH / 2, 0, WIDTH, HEIGHT)}.items():
        properties = {"objectType": "annotation", "classification": {"name": name}}
        items.append({"type": "Feature", "geometry": shape(shapely.box(*box)), "properties": properties})
    write(folder, items)


@case("scale", qupath_twin, "refused", "expected pixels")
def geojson_in_shares_of_the_picture(folder: Path) -> None:
    shares = [shapely.transform(n.polygon, lambda points: points / [WIDTH, HEIGHT]) for n in NUCLEI]
    write(folder, [{**feature(n), "geometry": shape(share)} for n, share in zip(NUCLEI, shares, strict=True)])


@case("scale", qupath_twin, "refused", r"0\.0 um|do not lie on nuclei")
def geojson_in_degrees(folder: Path) -> None:
    places = [shapely.transform(n.polygon, lambda points: 8 + points / 1e4) for n in NUCLEI]
    write(folder, [{**feature(n), "geometry": shape(place)} for n, place in zip(NUCLEI, places, strict=True)])


@case("export", qupath_twin)
def geojson_with_a_reference_system(folder: Path) -> None:
    system = {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}}
    save(folder / "a.png")
    write_json(folder / "a.geojson", collection(features()) | system)


@case("turned", qupath_twin, "refused", "bottom")
def geojson_counted_from_the_bottom(folder: Path) -> None:
    turned = [shapely.transform(n.polygon, lambda points: points * [1, -1] + [0, HEIGHT]) for n in NUCLEI]
    write(folder, [{**feature(n), "geometry": shape(each)} for n, each in zip(NUCLEI, turned, strict=True)])


@case("parts", qupath_twin)
def nuclei_with_holes(folder: Path) -> None:
    rings = [n.polygon.difference(n.polygon.buffer(-2)) for n in NUCLEI]
    write(folder, [{**feature(n), "geometry": shape(ring)} for n, ring in zip(NUCLEI, rings, strict=True)])
