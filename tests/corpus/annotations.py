"""GeoJSON, COCO and the JSON of other programs."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from corpus.scene import (
    HEIGHT, MPP, NUCLEI, WIDTH, Nucleus, case, coco, coco_twin, collection, feature, features, qupath_twin, save,
    segmentation, write_json, write_text,
)  # fmt: skip

# ---- GeoJSON


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
        crumb = shapely.box(n.x + 0.75 * n.a, n.y + 0.75 * n.b, n.x + 0.95 * n.a, n.y + 0.95 * n.b)
        item["geometry"] = shape(shapely.MultiPolygon([n.polygon.intersection(shapely.box(0, 0, n.x + 0.99 * n.a, HEIGHT)), crumb]))
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


@case("left out", qupath_twin, "read", "outside|region")
def cells_outside_of_the_region(folder: Path) -> None:
    region = {"type": "Feature", "geometry": shape(shapely.box(0, 0, WIDTH / 2, HEIGHT))}
    region["properties"] = {"objectType": "annotation", "classification": {"name": "Region*"}}
    write(folder, [*features(), region])


def left_half(folder: Path) -> Path:
    region = {"type": "Feature", "geometry": shape(shapely.box(0, 0, WIDTH / 2, HEIGHT))}
    region["properties"] = {"objectType": "annotation", "classification": {"name": "Region*"}}
    write(folder, [*(feature(n) for n in NUCLEI if n.x < WIDTH / 2), region])
    return folder


from dataclasses import replace as _replace  # noqa: E402

from corpus.scene import CASES  # noqa: E402

CASES[-1] = _replace(CASES[-1], twin=left_half)


@case("unit", None, "refused", None)
def geojson_in_micrometres(folder: Path) -> None:
    items = features()
    for n, item in zip(NUCLEI, items, strict=True):
        item["geometry"] = shape(shapely.transform(n.polygon, lambda xy: xy * MPP / 2))
    write(folder, items)


@case("left out", None, "refused", "a.geojson")
def labels_that_are_the_only_broken_link(folder: Path) -> None:
    save(folder / "a.png")
    (folder / "a.geojson").symlink_to(folder / "nowhere")


# ---- COCO


def rle(n: Nucleus) -> dict[str, Any]:
    """Uncompressed run lengths, column by column, as pycocotools counts them."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    flat = (np.hypot((x - n.x) / n.a, (y - n.y) / n.b) <= 1).ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, len(flat)]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": counts if not flat[0] else [0, *counts]}


def compressed(counts: list[int]) -> str:
    """pycocotools' text of run lengths."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            piece = value & 0x1F
            value >>= 5
            more = value != -1 if piece & 0x10 else value != 0
            text += chr((piece | 0x20 if more else piece) + 48)
    return text


def changed(folder: Path, change: Any, name: str = "a.png") -> None:
    save(folder / "images/a.png")
    content = coco(name)
    for n, entry in zip(NUCLEI, content["annotations"], strict=True):
        change(n, entry)
    write_json(folder / "labels.json", content)


@case("left out", coco_twin)
def masks_as_run_lengths_with_crowd(folder: Path) -> None:
    changed(folder, lambda n, e: e.update(iscrowd=1, segmentation=rle(n)))


@case("left out", coco_twin)
def masks_as_compressed_run_lengths_with_crowd(folder: Path) -> None:
    changed(folder, lambda n, e: e.update(iscrowd=1, segmentation=rle(n) | {"counts": compressed(rle(n)["counts"])}))


@case("left out", coco_twin)
def masks_without_boxes(folder: Path) -> None:
    def change(n: Nucleus, entry: dict[str, Any]) -> None:
        entry["segmentation"] = rle(n)
        del entry["bbox"]

    changed(folder, change)


@case("left out", coco_twin)
def polygons_without_boxes(folder: Path) -> None:
    changed(folder, lambda n, e: e.pop("bbox"))


@case("left out", coco_twin, "read", "crowd")
def a_crowd_over_everything(folder: Path) -> None:
    save(folder / "images/a.png")
    content = coco()
    crowd = {"id": 999, "image_id": 1, "category_id": 1, "bbox": [0, 0, WIDTH, HEIGHT], "iscrowd": 1}
    content["annotations"].append(crowd)
    write_json(folder / "labels.json", content)


@case("columns", coco_twin, "either")
def boxes_as_two_corners(folder: Path) -> None:
    changed(folder, lambda n, e: e.update(bbox=list(n.box)))


@case("columns", coco_twin, "either")
def boxes_as_two_corners_without_masks(folder: Path) -> None:
    near = [n for n in NUCLEI if n.x < WIDTH / 2 - 8 and n.y < HEIGHT / 2 - 8]
    save(folder / "images/a.png")
    content = coco()
    content["annotations"] = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": list(n.box)} for i, n in enumerate(near, 1)
    ]
    write_json(folder / "labels.json", content)


@case("unit", coco_twin, "either")
def boxes_as_shares_of_the_picture(folder: Path) -> None:
    def change(n: Nucleus, entry: dict[str, Any]) -> None:
        entry["bbox"] = [n.box[0] / WIDTH, n.box[1] / HEIGHT, 2 * n.a / WIDTH, 2 * n.b / HEIGHT]
        entry["segmentation"] = []

    changed(folder, change)


@case("columns", coco_twin, "either")
def boxes_around_their_centre(folder: Path) -> None:
    changed(folder, lambda n, e: e.update(bbox=[n.x, n.y, 2 * n.a, 2 * n.b]))


@case("several in one", coco_twin)
def one_annotation_a_category(folder: Path) -> None:
    save(folder / "images/a.png")
    content = coco()
    content["annotations"] = [
        {
            "id": number,
            "image_id": 1,
            "category_id": number,
            "bbox": list(by_kind(kind).bounds[:2]) + [by_kind(kind).bounds[2] - by_kind(kind).bounds[0], by_kind(kind).bounds[3] - by_kind(kind).bounds[1]],
            "segmentation": [ring for n in NUCLEI if n.kind == kind for ring in segmentation(n)],
        }
        for number, kind in ((1, "immune"), (2, "tumour"))
    ]
    write_json(folder / "labels.json", content)


@case("twice", coco_twin, "read", "twice")
def every_annotation_twice(folder: Path) -> None:
    save(folder / "images/a.png")
    content = coco()
    content["annotations"] *= 2
    write_json(folder / "labels.json", content)


@case("twice", None, "refused", "id")
def two_categories_of_one_id(folder: Path) -> None:
    save(folder / "images/a.png")
    content = coco()
    for category in content["categories"]:
        category["id"] = 1
    for entry in content["annotations"]:
        entry["category_id"] = 1
    write_json(folder / "labels.json", content)


@case("twice", None, "refused", "id")
def two_pictures_of_one_id(folder: Path) -> None:
    save(folder / "images/a.png")
    save(folder / "images/b.png")
    content = coco()
    content["images"].append(content["images"][0] | {"file_name": "b.png"})
    write_json(folder / "labels.json", content)


for label, path in {
    "windows": "images\\a.png", "whole_windows": "C:\\data\\images\\a.png", "whole_unix": "/home/x/images/a.png",
    "label_studio": "images/a%2Epng", "dotted": "./images/a.png", "upper": "a.PNG",
}.items():  # fmt: skip

    def named(folder: Path, path: str = path) -> None:
        changed(folder, lambda n, e: None, path)

    named.__name__ = f"coco_file_name_{label}"
    case("names", coco_twin)(named)


@case("left out", coco_twin, "read", "b.png")
def pictures_that_coco_does_not_list(folder: Path) -> None:
    coco_twin(folder)
    save(folder / "images/b.png")


@case("left out", None, "read", "without|b.png")
def pictures_listed_without_annotations(folder: Path) -> None:
    save(folder / "images/a.png")
    save(folder / "images/b.png")
    content = coco()
    content["images"].append({"id": 2, "file_name": "b.png", "width": WIDTH, "height": HEIGHT})
    write_json(folder / "labels.json", content)


@case("layout", coco_twin)
def cvat(folder: Path) -> None:
    save(folder / "images/a.png")
    write_json(folder / "annotations/instances_default.json", coco())


@case("layout", coco_twin)
def cvat_in_a_folder_default(folder: Path) -> None:
    save(folder / "images/default/a.png")
    write_json(folder / "annotations/instances_default.json", coco())


@case("layout", coco_twin)
def roboflow(folder: Path) -> None:
    save(folder / "_/a.png")
    (folder / "_").rename(folder / "train")
    write_json(folder / "train/_annotations.coco.json", coco())


@case("layout", coco_twin)
def label_studio_coco(folder: Path) -> None:
    save(folder / "images/a.png")
    write_json(folder / "result.json", coco("images/a.png"))


# ---- JSON of other programs


def labelme(n: Nucleus, shape_type: str = "polygon") -> dict[str, Any]:
    ring = np.array(n.polygon.exterior.coords)[:-1].tolist()
    places = {"polygon": ring, "rectangle": [list(n.box[:2]), list(n.box[2:])]}[shape_type]
    return {"label": n.kind, "points": places, "group_id": None, "shape_type": shape_type, "flags": {}}


def write_labelme(folder: Path, shapes: list[dict[str, Any]]) -> None:
    save(folder / "a.png")
    about = {"imagePath": "a.png", "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
    write_json(folder / "a.json", {"version": "2.3.6", "flags": {}, "shapes": shapes} | about)


@case("programs", qupath_twin, "either")
def x_anylabeling_polygons(folder: Path) -> None:
    write_labelme(folder, [labelme(n) for n in NUCLEI])


@case("programs", qupath_twin, "either")
def x_anylabeling_rectangles(folder: Path) -> None:
    write_labelme(folder, [labelme(n, "rectangle") for n in NUCLEI])


def numbered(folder: Path) -> Path:
    kinds = {"immune": "2", "tumour": "1"}
    write(folder, [feature(n, classification=kinds[n.kind]) for n in NUCLEI])
    return folder


@case("programs", numbered, "either")
def hovernet(folder: Path) -> None:
    save(folder / "a.png")
    kinds = {"immune": 2, "tumour": 1}
    nuclei = {
        str(i): {
            "bbox": [[round(n.box[1]), round(n.box[0])], [round(n.box[3]), round(n.box[2])]],
            "centroid": [n.x, n.y],
            "contour": np.array(n.polygon.exterior.coords)[:-1].tolist(),
            "type_prob": 0.9,
            "type": kinds[n.kind],
        }
        for i, n in enumerate(NUCLEI, 1)
    }
    write_json(folder / "a.json", {"mag": None, "nuc": nuclei})


@case("programs", qupath_twin, "either")
def cellvit(folder: Path) -> None:
    save(folder / "a.png")
    kinds = {"immune": 2, "tumour": 1}
    cells = [
        {
            "bbox": [[n.box[1], n.box[0]], [n.box[3], n.box[2]]],
            "centroid": [n.x, n.y],
            "contour": np.array(n.polygon.exterior.coords)[:-1].tolist(),
            "type": kinds[n.kind],
            "type_prob": 0.9,
        }
        for n in NUCLEI
    ]
    types = {"1": "tumour", "2": "immune"}
    write_json(folder / "a.json", {"wsi_metadata": {}, "type_map": types, "cells": cells})


@case("programs", None, "refused", "Label Studio|COCO")
def label_studio_json(folder: Path) -> None:
    save(folder / "a.png")
    results = [
        {
            "type": "rectanglelabels",
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "value": {"x": n.box[0] / 2.4, "y": n.box[1] / 1.6, "width": n.a / 1.2, "height": n.b / 0.8, "rectanglelabels": [n.kind]},
        }
        for n in NUCLEI
    ]
    write_json(folder / "a.json", [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": results}]}])
