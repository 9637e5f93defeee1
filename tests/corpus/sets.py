"""Sets of several images, nuclei labelled twice in other ways, and classes where nobody looks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shapely.affinity
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
)  # fmt: skip
from corpus.tables import picture
from corpus.variants import table

Move = Callable[[Nucleus], tuple[float, float]]


def one_of_five(folder: Path, move: Move) -> None:
    """Five images, one of which is labelled otherwise."""
    for name in "abcde":
        save(folder / f"images/{name}.png")
        places = [move(n) if name == "c" else (n.x, n.y) for n in NUCLEI]
        rows = [[*place, n.kind] for place, n in zip(places, NUCLEI, strict=True)]
        write_table(folder / f"labels/{name}.csv", [["x", "y", "class"], *rows])


# ---- one image of several


@case("scale", None, "refused", r"1 of 5 images \(c\).*micrometres")
def one_image_in_micrometres(folder: Path) -> None:
    one_of_five(folder, lambda n: (n.x * MPP, n.y * MPP))


@case("turned", None, "refused", r"1 of 5 images \(c\).*from the bottom")
def one_image_counted_from_the_bottom(folder: Path) -> None:
    one_of_five(folder, lambda n: (n.x, HEIGHT - n.y))


@case("left out", None, "read", r"1 of 5 images \(c\) lie on no darker places")
def one_image_of_another_place(folder: Path) -> None:
    rng = np.random.default_rng(2)
    one_of_five(folder, lambda n: tuple(rng.uniform((2, 2), (WIDTH - 2, HEIGHT - 2)).round(1)))


@case("scale", None, "read", r"1 of 2 images \(b\) measure.*another\s+resolution")
def two_resolutions(folder: Path) -> None:
    points_twin(folder)
    save(folder / "images/b.png", np.asarray(Image.fromarray(pixels()).resize((2 * WIDTH, 2 * HEIGHT))))
    write_table(folder / "labels/b.csv", [["x", "y", "class"], *([2 * n.x, 2 * n.y, n.kind] for n in NUCLEI)])


@case("twice", None, "read", r"2 labelled images are copies of one another \(a, b\)")
def one_image_under_two_names(folder: Path) -> None:
    for name in "ab":
        save(folder / f"images/{name}.png")
        write_table(folder / f"labels/{name}.csv", points())


@case("scale", None, "refused", "640, 320|480 x 320|says 480 x 320")
def sizes_of_images_as_text(folder: Path) -> None:
    save(folder / "images/a.png")
    content = coco()
    content["images"][0].update(width=str(2 * WIDTH), height=str(2 * HEIGHT))
    write_json(folder / "labels.json", content)


# ---- twice, and several in one


def twice(folder: Path, change: Callable[[Nucleus], shapely.Geometry]) -> None:
    write(folder, [*features(), *(feature(n) | {"geometry": shape(change(n))} for n in NUCLEI)])


@case("twice", qupath_twin)
def once_more_simplified(folder: Path) -> None:
    twice(folder, lambda n: n.polygon.simplify(0.7))


@case("twice", None, "read", "94 nuclei of 1 of 1 images .* within 1 um of another")
def once_more_a_pixel_further(folder: Path) -> None:
    twice(folder, lambda n: shapely.affinity.translate(n.polygon, 1, 0))


@case("twice", None, "read", "94 nuclei of 1 of 1 images .* within 1 um of another")
def cells_beside_their_nuclei(folder: Path) -> None:
    twice(folder, lambda n: n.polygon.buffer(3))


@case("twice", None, "read", "within 1 um of another")
def points_of_two_observers(folder: Path) -> None:
    rng = np.random.default_rng(0)
    picture(folder)
    own, other = points(), [[x + rng.normal(0, 1.5), y + rng.normal(0, 1.5), kind] for x, y, kind in points(None)]
    write_table(folder / "labels/a.csv", [*own, *other])


@case("several in one", None, "refused", "measures .* um, more than any does")
def one_box_around_all_of_a_type(folder: Path) -> None:
    save(folder / "images/a.png")
    content = coco()
    content["annotations"] = [
        {"id": kind, "image_id": 1, "category_id": kind, "bbox": [4, 4, WIDTH - 9, HEIGHT - 9]} for kind in (1, 2)
    ]
    write_json(folder / "labels.json", content)


@case("twice", None, "read", "3 planes")
def planes_of_a_stack(folder: Path) -> None:
    items = features()
    for number, item in enumerate(items):
        item["geometry"]["plane"] = {"c": -1, "z": number % 3, "t": 0}
    write(folder, items)


# ---- classes


@case("columns", None, "refused", "third column holds numbers")
def scores_without_a_header(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [[n.x, n.y, round(0.5 + n.x / 1000, 3)] for n in NUCLEI])


@case("columns", None, "read", "'immune', 'tumour' are shares")
def a_column_for_each_class(folder: Path) -> None:
    table(
        folder, ["x", "y", "immune", "tumour"], lambda n: [n.x, n.y, *(int(n.kind == k) for k in ("immune", "tumour"))]
    )


def said_otherwise(folder: Path, properties: Callable[[Nucleus], dict[str, Any]]) -> None:
    write(folder, [item | {"properties": properties(n)} for item, n in zip(features(), NUCLEI, strict=True)])


@case("class", qupath_twin)
def classes_as_pathclass(folder: Path) -> None:
    said_otherwise(folder, lambda n: {"objectType": "detection", "pathClass": n.kind})


@case("class", qupath_twin)
def classes_as_a_list(folder: Path) -> None:
    said_otherwise(folder, lambda n: {"classification": [n.kind]})


@case("class", qupath_twin)
def classes_in_quotes(folder: Path) -> None:
    said_otherwise(folder, lambda n: {"classification": f'"{n.kind}"'})


@case("class", None, "read", r"if they are in 'metadata.group' \('immune', 'tumour'\)")
def classes_under_another_key(folder: Path) -> None:
    said_otherwise(folder, lambda n: {"objectType": "detection", "metadata": {"group": n.kind}})


for number, word in enumerate(
    ["-", "?", "(none)", "<NA>", "#VALUE!", "#DIV/0!", "Unknown", "undefined", "PathClass: null"]
):

    def gap(folder: Path, word: str = word) -> None:
        rows = points()
        for row in rows[3:12]:
            row[2] = word
        picture(folder)
        write_table(folder / "labels/a.csv", rows)

    gap.__name__ = f"no_class_written_as_{number}"
    case("missing", None, "read", "9 of 47 cells have no class")(gap)


@case("missing", coco_twin)
def polygons_of_two_points_beside_boxes(folder: Path) -> None:
    few = NUCLEI[:5]
    changed(folder, lambda n, e: e.update(segmentation=[[n.x, n.y, n.x + 1, n.y]]) if n in few else None)
