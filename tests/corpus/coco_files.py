"""COCO files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from corpus.geojson import by_kind
from corpus.scene import (
    HEIGHT,
    NUCLEI,
    WIDTH,
    Nucleus,
    case,
    coco,
    coco_twin,
    save,
    segmentation,
    write_json,
    write_text,
)  # fmt: skip


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
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "segmentation": [ring for n in NUCLEI if n.kind == kind for ring in segmentation(n)],
        }
        for number, kind in ((1, "immune"), (2, "tumour"))
        for x0, y0, x1, y1 in [by_kind(kind).bounds]
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
def roboflow(folder: Path) -> Path:
    save(folder / "_/a.png")
    (folder / "_").rename(folder / "train")
    write_json(folder / "train/_annotations.coco.json", coco())
    write_text(folder / "train/README.roboflow.txt", "Exported by Roboflow")
    return folder / "train"


@case("layout", coco_twin)
def label_studio_coco(folder: Path) -> None:
    save(folder / "images/a.png")
    write_json(folder / "result.json", coco("images/a.png"))


@case("names", coco_twin)
def ids_as_text_and_as_numbers(folder: Path) -> None:
    changed(folder, lambda n, e: e.update(image_id="1", category_id=float(e["category_id"])))


@case("twice", None, "refused", "two images")
def two_entries_of_one_picture(folder: Path) -> None:
    save(folder / "images/a.png")
    content = coco("x/a.png")
    content["images"].append(content["images"][0] | {"id": 2, "file_name": "y/a.png"})
    write_json(folder / "labels.json", content)


@case("columns", coco_twin)
def boxes_that_were_turned_in_cvat(folder: Path) -> None:
    """A quarter of a turn: width and height are exchanged."""

    def change(n: Nucleus, entry: dict[str, Any]) -> None:
        entry["bbox"] = [n.x - n.b, n.y - n.a, 2 * n.b, 2 * n.a]
        entry["attributes"] = {"rotation": 90.0}
        entry["segmentation"] = []

    changed(folder, change)
