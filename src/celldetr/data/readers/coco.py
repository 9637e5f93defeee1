"""COCO: one JSON file of images, categories and annotations. Segmentations become masks, where there are any.

``bbox`` is x, y, width, height in pixels. A label of the card is a category's name or, where no label is called so, its
id. Annotations with ``iscrowd`` 1 mean several objects and are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from celldetr.config import Config
from celldetr.data.card import DatasetCard
from celldetr.data.masks import Polygons
from celldetr.data.readers.coco_masks import read_area
from celldetr.data.readers.common import labelled_image, read_image, type_index
from celldetr.data.sample import Sample
from celldetr.errors import InputError
from celldetr.io.safe_io import load_json, shown


class CocoOptions(Config):
    """Options of the format ``coco``; a split is a JSON file, or a list of image names in the file ``annotations``."""

    images: str = "images"  # folder under the root that the file names are relative to
    annotations: str = ""
    inclusive: bool = False  # width and height are of last minus first pixel, as some exports have it: 1 is added


def load(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The JSON file, its three lists checked for the keys that are used, and these for their types."""
    values = load_json(path)
    needed = {
        "images": ("id", "file_name"),
        "categories": ("id", "name"),
        "annotations": ("image_id", "category_id", "bbox"),
    }
    for part, keys in needed.items():
        if not isinstance(values, dict) or not isinstance(values.get(part), list):
            raise InputError(f"{path}: not COCO: no list {part!r}")
        for row, entry in enumerate(values[part]):
            for key in keys:
                if not isinstance(entry, dict) or key not in entry:
                    raise InputError(f"{path}: {part}[{row}] has no {key!r}")
                if key != "bbox" and not isinstance(entry[key], str | int | float):
                    raise InputError(f"{path}: {part}[{row}]: {key} must be text or a number, got {shown(entry[key])}")
    return values


def _box(entry: dict[str, Any], where: str, extra: int) -> tuple[float, float, float, float]:
    """xyxy of an annotation."""
    try:
        x, y, width, height = (float(value) for value in entry["bbox"])
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: bbox must be [x, y, width, height], got {shown(entry['bbox'])}") from None
    return x, y, x + width + extra, y + height + extra


def read(card: DatasetCard, split: str) -> Iterator[Sample]:
    """Read a split.

    Raises:
        InputError: a file is missing or not COCO, an annotation is of an unknown image or category, a box is not in its
            image, or a segmentation is none.
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
    known = {image["id"] for image in content["images"]}
    by_image: dict[Any, list[int]] = {}
    for row, entry in enumerate(content["annotations"]):
        if entry["image_id"] not in known:
            raise InputError(f"{path}: annotations[{row}] is of image {entry['image_id']!r}, which is not listed")
        if entry["category_id"] not in names:
            raise InputError(f"{path}: annotations[{row}] is of category {entry['category_id']!r}, which is not listed")
        if not entry.get("iscrowd"):
            by_image.setdefault(entry["image_id"], []).append(row)
    images = content["images"]
    if isinstance(value, list):
        files = {str(image["file_name"]): image for image in images}
        for name in value:
            if name not in files:
                raise InputError(f"dataset {card.name!r}, split {split!r}: no image {name!r} in {path}")
        images = [files[name] for name in value]
    stems = Counter(Path(str(image["file_name"])).stem for image in images)  # with folders, names may repeat
    for image in images:
        rows = by_image.get(image["id"], [])
        entries = [content["annotations"][row] for row in rows]
        where = [f"{path}: annotations[{row}]" for row in rows]
        types = []
        for entry, place in zip(entries, where, strict=True):
            name = names[entry["category_id"]]
            label = name if name in card.label_index else str(entry["category_id"])
            types.append(type_index(card, label if label in card.label_index else name, place))
        boxes = [_box(entry, place, options.inclusive) for entry, place in zip(entries, where, strict=True)]
        file = root / options.images / str(image["file_name"])
        below = Path(str(image["file_name"]))
        called = below.stem if stems[below.stem] == 1 else below.with_suffix("").as_posix()
        pixels = read_image(file)
        areas = np.empty(len(rows), dtype=np.object_)
        for i, (entry, place) in enumerate(zip(entries, where, strict=True)):
            areas[i] = read_area(entry.get("segmentation"), pixels.shape, place)
        masks = None if shapely.is_missing(areas).all() else Polygons(areas)
        yield labelled_image(card, called, pixels, np.array(boxes).reshape(-1, 4), types, where, masks=masks)
