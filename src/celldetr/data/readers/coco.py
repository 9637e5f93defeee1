"""COCO: one JSON file of images, categories and annotations. Segmentations become masks, where there are any.

``bbox`` is x, y, width, height in pixels; without it the segmentation counts. A label of the card is a category's name
or, where no label is called so, its id. Run lengths are marked ``iscrowd`` by the standard, whether they are of one
object or of several: those of nuclei are read, and what is larger, or has no mask, is left out and said. Sizes of
images that the file states must be those of the pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.affinity

from celldetr.config import Config
from celldetr.data.card import DatasetCard
from celldetr.data.masks import Polygons
from celldetr.data.nucleus_parts import USUAL_MPP, nuclei_of
from celldetr.data.readers.coco_images import file_of, find_images, fitted, tell_unlisted
from celldetr.data.readers.coco_masks import read_area
from celldetr.data.readers.common import labelled_image, read_picture, type_index
from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.io.left_out import LeftOut
from celldetr.io.safe_io import load_json, shown

CROWD_UM = 30.0  # a side of a crowd that may be a nucleus
APART_PX, APART = 3.0, 0.2  # that a box and its segmentation may differ: px, share of the box
FEW = 3  # annotations with a segmentation, by which boxes are judged


class CocoOptions(Config):
    """Options of the format ``coco``; a split is a JSON file, or a list of image names in the file ``annotations``."""

    images: str = "images"  # folder under the root that the file names are relative to
    annotations: str = ""
    inclusive: bool = False  # width and height are of last minus first pixel, as some exports have it: 1 is added


def load(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The JSON file, its three lists checked for the keys that are used, and these for their types.

    Ids are compared as text, as some exports have 1 in one list and "1" in another.

    Raises:
        InputError: no such file, not COCO, or two images or categories of one id.
    """
    values = load_json(path)
    needed = {"images": ("id", "file_name"), "categories": ("id", "name"), "annotations": ("image_id", "category_id")}
    for part, keys in needed.items():
        if not isinstance(values, dict) or not isinstance(values.get(part), list):
            raise InputError(f"{path}: not COCO: no list {part!r}")
        for row, entry in enumerate(values[part]):
            for key in keys:
                if not isinstance(entry, dict) or key not in entry:
                    raise InputError(f"{path}: {part}[{row}] has no {key!r}")
                if not isinstance(entry[key], str | int | float):
                    raise InputError(f"{path}: {part}[{row}]: {key} must be text or a number, got {shown(entry[key])}")
                if key.endswith("id"):
                    value = entry[key]
                    entry[key] = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
            if part == "annotations" and "bbox" not in entry and not entry.get("segmentation"):
                raise InputError(f"{path}: {part}[{row}] has no 'bbox', and no segmentation")
    for part in ("images", "categories"):
        ids = Counter(entry["id"] for entry in values[part])
        for row, entry in enumerate(values[part]):
            if ids[entry["id"]] > 1:
                raise InputError(
                    f"{path}: {part}[{row}] has the id {entry['id']} of another; joined files need new ids"
                )
    return values


@dataclass(frozen=True)
class _Nucleus:
    box: tuple[float, float, float, float]  # xyxy, px
    area: shapely.Geometry | None
    row: int  # of the annotation


def read(card: DatasetCard, split: str) -> Iterator[Sample]:
    """Read a split.

    Raises:
        InputError: a file is missing or not COCO, an annotation is of an unknown image or category, a box is not in its
            image or not around its segmentation, a segmentation is none, or a picture has another size than stated.
    """
    options = card.options_as(CocoOptions)
    root, value = card.directory(), card.split(split)
    if isinstance(value, list) and not options.annotations:
        raise InputError(
            f"dataset {card.name!r}: split {split!r} lists images, so options.annotations must name the JSON"
        )
    path = root / (options.annotations if isinstance(value, list) else str(value))
    content = load(path)
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    by_image: dict[str, list[int]] = {image["id"]: [] for image in content["images"]}
    for row, entry in enumerate(content["annotations"]):
        if entry["image_id"] not in by_image:
            raise InputError(f"{path}: annotations[{row}] is of image {entry['image_id']}, which is not listed")
        if entry["category_id"] not in names:
            raise InputError(f"{path}: annotations[{row}] is of category {entry['category_id']}, which is not listed")
        by_image[entry["image_id"]].append(row)
    images = content["images"]
    folder = root / options.images
    known = find_images(folder)
    files = {image["id"]: file_of(folder, str(image["file_name"]), known) for image in images}
    if isinstance(value, list):
        images = [_listed(card, split, name, images, path) for name in value]
    else:
        tell_unlisted(folder, known, files.values())
    stems = Counter(files[image["id"]].stem for image in images)  # with folders, names may repeat
    left, empty = LeftOut(path), LeftOut(path, "read as images without nuclei")
    divided = LeftOut(path, "divided into nuclei")
    for image in images:
        file = files[image["id"]]
        picture = fitted(read_picture(file, card.mpp), image, file, path)
        shape, mpp = picture.pixels.shape, picture.mpp
        nuclei: list[_Nucleus] = []
        for row in by_image[image["id"]]:
            entry, where = content["annotations"][row], f"{path}: annotations[{row}]"
            found = _nuclei(entry, row, where, shape, options, mpp, left)
            if len(found) > 1:
                divided.add(f"annotations, now {len(found)} nuclei", f"annotations[{row}]")
            nuclei += found
        _check_boxes(content["annotations"], nuclei, path)
        if not nuclei:
            empty.add("images that no annotation is of", file.name)
        rows = [f"{path}: annotations[{nucleus.row}]" for nucleus in nuclei]
        types = []
        for nucleus, where in zip(nuclei, rows, strict=True):
            number = content["annotations"][nucleus.row]["category_id"]
            label = names[number] if names[number] in card.label_index else number
            types.append(type_index(card, label if label in card.label_index else names[number], where))
        areas = np.array([*(nucleus.area for nucleus in nuclei), None], dtype=np.object_)[:-1]
        masks = None if shapely.is_missing(areas).all() else Polygons(areas)
        boxes = np.array([nucleus.box for nucleus in nuclei]).reshape(-1, 4)
        below = Path(str(image["file_name"]).replace("\\", "/"))
        called = file.stem if stems[file.stem] == 1 else below.with_suffix("").as_posix()
        yield labelled_image(card, called, picture.pixels, boxes, types, rows, mpp, masks=masks)
    for each in (left, divided, empty):
        each.tell()


def _listed(card: DatasetCard, split: str, name: str, images: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    plain = name.replace("\\", "/")
    for image in images:
        if plain == str(image["file_name"]).replace("\\", "/"):
            return image
    raise InputError(f"dataset {card.name!r}, split {split!r}: no image {name!r} in {path}")


def _nuclei(
    entry: dict[str, Any],
    row: int,
    where: str,
    shape: tuple[int, ...],
    options: CocoOptions,
    mpp: float | None,
    left: LeftOut,
) -> list[_Nucleus]:
    """The nuclei of an annotation: one, mostly."""
    area = read_area(entry.get("segmentation"), shape, where)
    box = _box(entry, where, options.inclusive) if "bbox" in entry else None
    if box is not None and area is None and (turned := _turned(entry, box)):
        area = turned
        box = turned.bounds
    if entry.get("iscrowd"):
        if area is None:
            left.add("crowds without a mask (iscrowd)", f"annotations[{row}]")
            return []
        box = None
    if area is None:
        assert box is not None  # load has seen to it
        return [_Nucleus(box, None, row)]
    parts = nuclei_of(area, mpp)
    if entry.get("iscrowd"):
        limit = CROWD_UM / (mpp or USUAL_MPP)
        kept = [part for part in parts if max(np.subtract(part.bounds[2:], part.bounds[:2])) <= limit]
        if len(kept) < len(parts):
            left.add("crowds larger than a nucleus (iscrowd)", f"annotations[{row}]", len(parts) - len(kept))
        parts = kept
    elif len(parts) == 1 and box is not None:
        return [_Nucleus(box, area, row)]
    return [_Nucleus(part.bounds, part, row) for part in parts]


def _box(entry: dict[str, Any], where: str, extra: int) -> tuple[float, float, float, float]:
    """xyxy of an annotation."""
    try:
        x, y, width, height = (float(value) for value in entry["bbox"])
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: bbox must be [x, y, width, height], got {shown(entry['bbox'])}") from None
    return x, y, x + width + extra, y + height + extra


def _turned(entry: dict[str, Any], box: tuple[float, float, float, float]) -> shapely.Polygon | None:
    """The rectangle of an annotation that CVAT has turned about its centre; None if it is upright."""
    attributes = entry.get("attributes")
    angle = attributes.get("rotation") if isinstance(attributes, dict) else None
    if not isinstance(angle, int | float) or not angle % 360:
        return None
    return shapely.affinity.rotate(shapely.box(*box), angle)


def _check_boxes(annotations: list[dict[str, Any]], nuclei: list[_Nucleus], path: Path) -> None:
    """Refuse boxes that are shares of the image, or mostly not around their segmentations."""
    boxes = np.array([nucleus.box for nucleus in nuclei]).reshape(-1, 4)
    if len(boxes) >= FEW and np.isfinite(boxes).all() and boxes.max() <= 2:
        raise InputError(f"{path}: all boxes lie between {boxes.min():g} and {boxes.max():g}; expected pixels")
    drawn = np.array([nucleus.area is not None for nucleus in nuclei], dtype=bool)
    if drawn.sum() < FEW:
        return
    bounds = shapely.bounds(np.array([n.area for n in nuclei if n.area is not None], dtype=np.object_))
    apart = np.abs(boxes[drawn] - bounds).max(1) > np.maximum(APART_PX, APART * (bounds[:, 2:] - bounds[:, :2]).max(1))
    if apart.sum() * 2 > len(apart):
        first = int(np.flatnonzero(apart)[0])
        row = [nucleus.row for nucleus, has in zip(nuclei, drawn, strict=True) if has][first]
        around = ", ".join(f"{edge:g}" for edge in bounds[first])
        raise InputError(
            f"{path}: annotations[{row}]: bbox {shown(annotations[row].get('bbox'), 60)} is not around its"
            f" segmentation, which reaches from x, y to x, y = {around}; expected [x, y, width, height],"
            " x and y of the upper left corner"
        )
