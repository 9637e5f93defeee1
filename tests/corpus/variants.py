"""Less usual ways of writing what the other modules have: each reads as its twin, or is refused, or is doubted."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from corpus.coco_files import changed
from corpus.geojson import shape, write
from corpus.scene import (
    HEIGHT,
    MPP,
    NUCLEI,
    WIDTH,
    Nucleus,
    case,
    coco,
    coco_twin,
    feature,
    features,
    pixels,
    points,
    points_twin,
    qupath_twin,
    save,
    write_json,
    write_table,
    write_text,
)  # fmt: skip
from corpus.tables import picture, text_of


def table(folder: Path, header: list[str], row: Callable[[Nucleus], list[Any]]) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [header, *map(row, NUCLEI)])


# ---- tables


@case("columns", points_twin)
def units_in_brackets(folder: Path) -> None:
    table(folder, ["X (µm)", "Y (µm)", "Class"], lambda n: [n.x * MPP, n.y * MPP, n.kind])


@case("columns", points_twin, "refused", "x_um")
def units_of_millimetres(folder: Path) -> None:
    table(folder, ["X (mm)", "Y (mm)", "Class"], lambda n: [n.x * MPP / 1e3, n.y * MPP / 1e3, n.kind])


@case("columns", points_twin, "refused", "expected a number, got 'px'")
def units_in_a_row_of_their_own(folder: Path) -> None:
    picture(folder)
    header, *rows = points()
    write_table(folder / "labels/a.csv", [header, ["px", "px", ""], *rows])


@case("columns", points_twin)
def y_before_x(folder: Path) -> None:
    table(folder, ["y", "x", "class"], lambda n: [n.y, n.x, n.kind])


@case("columns", points_twin, "refused", "xmin,ymin,xmax,ymax")
def corner_called_left_and_top_with_sizes(folder: Path) -> None:
    table(folder, ["left", "top", "width", "height", "class"], lambda n: [*n.box[:2], 2 * n.a, 2 * n.b, n.kind])


@case("columns", points_twin, "refused", "cell_type")
def two_columns_of_classes(folder: Path) -> None:
    table(folder, ["x", "y", "type", "cell_type"], lambda n: [n.x, n.y, "nucleus", n.kind])


@case("left out", points_twin, "read", "other.png")
def a_column_that_names_another_picture(folder: Path) -> None:
    table(folder, ["image", "x", "y", "class"], lambda n: ["other.png", n.x, n.y, n.kind])


@case("left out", points_twin)
def a_column_that_names_the_slide_of_the_picture(folder: Path) -> None:
    table(folder, ["Image", "x", "y", "class"], lambda n: ["C:\\slides\\a.svs - Series 1", n.x, n.y, n.kind])


@case("delimiter", points_twin)
def comments_before_the_header(folder: Path) -> None:
    picture(folder)
    write_text(folder / "labels/a.csv", f"# cells of a slide\n# 2 kinds\n{text_of(points())}")


@case("delimiter", points_twin, "refused", "x_px,y_px")
def a_header_that_begins_as_a_comment(folder: Path) -> None:
    table(folder, ["#y", "x", "class"], lambda n: [n.y, n.x, n.kind])


@case("delimiter", points_twin)
def lines_of_old_macs_and_bars_between_columns(folder: Path) -> None:
    picture(folder)
    write_text(folder / "labels/a.csv", text_of(points(), "|").replace("\n", "\r"))


@case("scale", points_twin, "refused", "micrometres|half as fine|twice")
def points_at_half_the_resolution(folder: Path) -> None:
    table(folder, ["x", "y", "class"], lambda n: [n.x / 2, n.y / 2, n.kind])


# ---- files of other programs


@case("left out", None, "refused", r"\.txt")
def lists_of_yolo(folder: Path) -> None:
    picture(folder)
    lines = [f"0 {n.x / WIDTH} {n.y / HEIGHT} {2 * n.a / WIDTH} {2 * n.b / HEIGHT}" for n in NUCLEI]
    write_text(folder / "labels/a.txt", "\n".join(lines))


@case("left out", qupath_twin, "read", r"b\.qpdata")
def data_of_qupath_beside(folder: Path) -> None:
    qupath_twin(folder)
    (folder / "b.qpdata").write_bytes(b"\xac\xed\0\5")


@case("left out", None, "refused", r"\.roi")
def regions_of_imagej(folder: Path) -> None:
    picture(folder)
    (folder / "labels").mkdir()
    with zipfile.ZipFile(folder / "labels/a.zip", "w") as file:
        file.writestr("1.roi", b"Iout" + bytes(60))


@case("left out", None, "refused", r"topology\.json: no labels known")
def json_without_labels(folder: Path) -> None:
    save(folder / "a.png")
    write_json(folder / "topology.json", {"type": "Topology", "arcs": []})


# ---- GeoJSON


@case("export", qupath_twin, "refused", "one a line")
def a_feature_a_line(folder: Path) -> None:
    save(folder / "a.png")
    write_text(folder / "a.geojson", "\n".join(map(json.dumps, features())))


@case("export", None, "refused", r"\.geojsonl")
def a_feature_a_line_by_its_name(folder: Path) -> None:
    save(folder / "a.png")
    write_text(folder / "a.geojsonl", "\n".join(map(json.dumps, features())))


@case("export", qupath_twin)
def points_of_three_numbers(folder: Path) -> None:
    items = features()
    for item in items:
        item["geometry"]["coordinates"] = [[[*xy, 0] for xy in item["geometry"]["coordinates"][0]]]
    write(folder, items)


@case("export", qupath_twin, "refused", "LineString")
def closed_lines(folder: Path) -> None:
    items = features()
    for item in items:
        item["geometry"] = {"type": "LineString", "coordinates": item["geometry"]["coordinates"][0]}
    write(folder, items)


@case("parts", qupath_twin)
def cells_around_their_nuclei(folder: Path) -> None:
    outer = [shape(n.polygon.buffer(4)) for n in NUCLEI]
    inner = [feature(n, "cell") for n in NUCLEI]
    write(folder, [item | {"geometry": cell, "nucleusGeometry": item["geometry"]}
                   for item, cell in zip(inner, outer, strict=True)])  # fmt: skip


@case("parts", None, "read", "2 cells without a nucleus")
def cells_of_which_some_have_no_nucleus(folder: Path) -> None:
    items = [feature(n, "cell") for n in NUCLEI]
    write(folder, items[:2] + [item | {"nucleusGeometry": item["geometry"]} for item in items[2:]])


@case("left out", None, "refused", "is this its image|exchanged")
def rows_before_columns(folder: Path) -> None:
    items = features()
    for item in items:
        item["geometry"]["coordinates"] = [[xy[::-1] for xy in item["geometry"]["coordinates"][0]]]
    write(folder, items)


# ---- COCO


@case("left out", None, "read", "without nuclei.*a.png")
def coco_without_an_annotation(folder: Path) -> None:
    save(folder / "images/a.png")
    write_json(folder / "labels.json", coco() | {"annotations": []})


@case("left out", None, "refused", "is of image 7")
def an_annotation_of_a_picture_that_is_not_listed(folder: Path) -> None:
    changed(folder, lambda n, e: e.update(image_id=7) if n is NUCLEI[3] else None)


@case("columns", coco_twin, "refused", "is empty")
def boxes_from_their_lower_right_corner(folder: Path) -> None:
    changed(folder, lambda n, e: e.update(bbox=[n.box[2], n.box[3], -2 * n.a, -2 * n.b], segmentation=[]))


@case("columns", None, "refused", "no 'bbox'")
def points_as_keypoints(folder: Path) -> None:
    def change(n: Nucleus, entry: dict[str, Any]) -> None:
        entry.update(keypoints=[n.x, n.y, 2])
        del entry["bbox"], entry["segmentation"]

    changed(folder, change)


@case("scale", None, "refused", "scaled by 2")
def boxes_of_a_smaller_copy(folder: Path) -> None:
    save(folder / "images/a.png")
    content = coco()
    content["images"][0].update(width=WIDTH // 2, height=HEIGHT // 2)
    write_json(folder / "labels.json", content)


# ---- pictures


def pictured(folder: Path, image: Any, **options: Any) -> None:
    save(folder / "images/a.png", image, **options)
    write_table(folder / "labels/a.csv", points())


@case("pixels", points_twin, "read", "red and blue look exchanged")
def red_and_blue_exchanged(folder: Path) -> None:
    pictured(folder, np.ascontiguousarray(pixels()[..., ::-1]))


@case("pixels", None, "read", "luminance and chroma")
def luminance_and_chroma_in_a_png(folder: Path) -> None:
    glass = np.full((HEIGHT, WIDTH + 60, 3), (243, 241, 244), np.uint8)
    glass[:, :WIDTH] = pixels()
    pictured(folder, np.array(Image.fromarray(glass).convert("YCbCr")))


@case("pixels", None, "read", "colours look inverted")
def a_negative(folder: Path) -> None:
    pictured(folder, 255 - pixels())


@case("pixels", points_twin, "read", "transparent everywhere")
def transparent_everywhere(folder: Path) -> None:
    pictured(folder, np.dstack([pixels(), np.zeros((HEIGHT, WIDTH), np.uint8)]))


@case("pixels", points_twin, "refused", "save it with 8 bits")
def twelve_bits_in_a_png_of_sixteen(folder: Path) -> None:
    points_twin(folder)
    (folder / "images/a.png").write_bytes(imagecodecs.png_encode(pixels().astype(np.uint16) * 16))


@case("pixels", points_twin)
def colours_in_planes(folder: Path) -> None:
    (folder / "images").mkdir()
    planes = np.moveaxis(pixels(), -1, 0)
    tifffile.imwrite(folder / "images/a.tif", planes, photometric="rgb", planarconfig="separate")
    write_table(folder / "labels/a.csv", points())


@case("pixels", None, "refused", "not a stack")
def two_pictures_in_a_tiff(folder: Path) -> None:
    (folder / "images").mkdir()
    tifffile.imwrite(folder / "images/a.tif", np.stack([pixels(), 255 - pixels()]), photometric="rgb")
    write_table(folder / "labels/a.csv", points())


@case("names", points_twin)
def a_jpeg_called_png(folder: Path) -> None:
    (folder / "images").mkdir()
    Image.fromarray(pixels()).save(folder / "images/a.png", format="JPEG", quality=95)
    write_table(folder / "labels/a.csv", points())


@case("left out", points_twin, "read", r"\.webp, which must be saved")
def a_picture_in_webp_beside(folder: Path) -> None:
    points_twin(folder)
    (folder / "images/b.webp").write_bytes(b"RIFF")


@case("turned", points_twin, "refused", "from the bottom")
def a_picture_upside_down(folder: Path) -> None:
    pictured(folder, np.ascontiguousarray(pixels()[::-1]))


@case("left out", None, "refused", "further right and")
def a_picture_with_a_border_added(folder: Path) -> None:
    pictured(folder, np.pad(pixels(), ((16, 0), (16, 0), (0, 0)), constant_values=255))
