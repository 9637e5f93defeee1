"""Layouts and JSON of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from corpus.geojson import write
from corpus.scene import (
    HEIGHT,
    NUCLEI,
    WIDTH,
    Nucleus,
    case,
    feature,
    qupath_twin,
    save,
    write_json,
)  # fmt: skip


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
            "value": {
                "x": n.box[0] / 2.4,
                "y": n.box[1] / 1.6,
                "width": n.a / 1.2,
                "height": n.b / 0.8,
                "rectanglelabels": [n.kind],
            },
        }
        for n in NUCLEI
    ]
    write_json(folder / "a.json", [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": results}]}])


@case("several in one", qupath_twin)
def x_anylabeling_nuclei_in_two_shapes_of_a_group(folder: Path) -> None:
    shapes = []
    for number, n in enumerate(NUCLEI):
        ring = np.array(n.polygon.exterior.coords)[:-1]
        halves = (ring[ring[:, 1] <= n.y], ring[ring[:, 1] >= n.y])
        shapes += [labelme(n) | {"points": half.tolist(), "group_id": number} for half in halves]
    write_labelme(folder, shapes)


@case("scale", None, "refused", "480, 320")
def x_anylabeling_of_a_larger_picture(folder: Path) -> None:
    write_labelme(folder, [labelme(n) for n in NUCLEI])
    content = json.loads((folder / "a.json").read_text())
    write_json(folder / "a.json", content | {"imageWidth": 2 * WIDTH, "imageHeight": 2 * HEIGHT})
