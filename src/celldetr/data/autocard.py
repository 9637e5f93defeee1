"""Own labels without a card: what a folder or file holds is seen from its files, and its types are those found.

slides/case_1.geojson  slides/case_1.svs          QuPath's export beside each image or slide
tiles/images/a.png     tiles/labels/a.csv         x,y,class in pixels; both may also lie in one folder
set/images/*.png       set/labels.json            COCO

A patch set (``data/patch_set.py``) is seen as well: its nuclei have boxes, and types where it names some.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celldetr.config import parse
from celldetr.data.card import CARDS, DatasetCard, load_card
from celldetr.data.patch_set import SPLITS, UNTYPED, PatchSet, is_patch_set, read_info
from celldetr.data.readers import coco, points_csv, qupath_objects
from celldetr.data.readers.common import read_lines
from celldetr.data.readers.layout import SUFFIXES as IMAGES
from celldetr.errors import InputError
from celldetr.io.safe_io import expand_user, is_dir, is_file, yaml_names

SPLIT = "all"  # the one split of such a card
PATCHES = "patch_set"  # format of the card of a patch set
X, Y = ("x", "x_px", "x [px]"), ("y", "y_px", "y [px]")
LABELS = ("class", "label", "type", "classification", "name")


@dataclass(frozen=True)
class OwnData:
    """What was found.

    Attributes:
        card: with ``SPLIT``, and the classes found as types; of cells without any class, the one type ``nucleus``.
        counts: labelled cells of each class; "" are those without.
    """

    card: DatasetCard
    counts: dict[str, int]


def find_card(name_or_path: str | Path, mpp: float | None = None) -> DatasetCard:
    """A card by name or path, or that of a patch set, or of a folder or file of labels.

    Args:
        name_or_path: as ``load_card`` takes it, or as ``read_own`` does.
        mpp: micrometres per pixel of the images, instead of what they or their card say.

    Raises:
        InputError: see ``load_card``, ``read_info`` and ``read_own``.
    """
    path = expand_user(Path(name_or_path))
    if str(name_or_path) not in yaml_names(CARDS):
        if is_patch_set(path):
            return _patches(path.absolute(), mpp)
        if is_dir(path) or (is_file(path) and path.suffix.lower() not in (".yaml", ".yml")):
            return read_own(path, mpp).card
    card = load_card(name_or_path)
    return card if mpp is None else card.model_copy(update={"mpp": mpp})


def read_own(path: Path, mpp: float | None = None) -> OwnData:
    """See what labels a folder or file holds; images are not opened.

    Args:
        path: a folder with QuPath GeoJSON, CSV or COCO files (or with a folder ``labels`` of them), or one such file.
        mpp: micrometres per pixel of the images; needed where they do not say it.

    Raises:
        InputError: no labels, labels of more than one format, or files that are not what their names say.
    """
    path = expand_user(path).absolute()
    if is_patch_set(path):
        counts = typed_counts(path)
        if counts:
            return OwnData(_patches(path, mpp), counts)
        raise InputError(
            f"{path}: is a patch set, whose cells have no types to learn; name it in a recipe:"
            " train: [{card: FOLDER, split: all}]"
        )
    if not is_dir(path) and not is_file(path):
        raise InputError(f"{path}: no such folder or file; expected QuPath GeoJSON, CSV (x,y,class) or COCO JSON files")
    files, root = ([path], path.parent) if is_file(path) else (_label_files(path), path)
    if is_file(path) and root.name == "labels":
        root = root.parent
    kinds = {kind for file in files if (kind := _kind(file))}
    if len(kinds) != 1:
        expected = "no labels; expected QuPath GeoJSON (.geojson), CSV (x,y,class) or COCO (.json), in it or in labels/"
        several = f"labels of {len(kinds)} formats ({', '.join(sorted(kinds))}); name a file, or move some elsewhere"
        raise InputError(f"{path}: {several if kinds else expected}")
    kind = kinds.pop()
    files = [file for file in files if _kind(file) == kind]
    images = "images" if is_dir(root / "images") else "."
    labels = files[0].parent.relative_to(root)
    counts, splits, options = _LOOK[kind](root, files, images)
    options = {"images": images} | options | ({"labels": str(labels)} if kind != "coco" else {})
    names = sorted(name for name in counts if name)
    values: dict[str, Any] = {
        "name": path.name or "data",
        "title": path.name,
        "format": kind,
        "root": str(root),
        "mpp": mpp,
        "types": {name: [name] for name in names} or {"nucleus": []},
        "splits": {SPLIT: splits},
        "licence": "unknown",
        "citation": "",
        "options": options,
    }
    return OwnData(parse(DatasetCard, values, str(path)), dict(counts))


def typed_counts(path: Path) -> dict[str, int]:
    """Labelled cells of each type of a patch set; {} where it names no types."""
    info = read_info(path)
    if not info.types:
        return {}
    counts = PatchSet(path).type_counts(len(info.types)).tolist()
    return dict(zip(info.types, counts, strict=True))


def _patches(path: Path, mpp: float | None) -> DatasetCard:
    """The card of a patch set."""
    info = read_info(path)
    if mpp is not None and mpp != info.mpp:
        raise InputError(f"{path}: mpp={mpp:g}, but this patch set is at {info.mpp:g} um per pixel; leave mpp out")
    values = {
        "name": path.name or "patches",
        "title": f"{info.patches:,} patches of {len(info.slides):,} slides",
        "format": PATCHES,
        "root": str(path),
        "mpp": info.mpp,
        "types": {name: [name] for name in info.types} or {UNTYPED[0]: []},
        "splits": {split: split for split in SPLITS},
        "licence": info.licence,
        "citation": "",
    }
    return parse(DatasetCard, values, str(path))


def _label_files(folder: Path) -> list[Path]:
    """The files of ``labels/`` if any there holds labels, else those of the folder itself."""
    for place in (folder / "labels", folder):
        files = sorted(place.iterdir()) if is_dir(place) else []
        found = [file for file in files if is_file(file) and not file.name.startswith(".")]
        if any(map(_kind, found)):
            return found
    return []


def _kind(file: Path) -> str:
    name = file.name.lower()
    if name.endswith(qupath_objects.SUFFIXES):
        return "qupath_geojson"
    return {".csv": "points_csv", ".json": "coco"}.get(file.suffix.lower(), "")


Look = tuple[Counter[str], str | list[str], dict[str, Any]]  # cells of each class, what the split is, options


def _qupath(root: Path, files: list[Path], images: str) -> Look:
    counts: Counter[str] = Counter()
    for file in files:
        counts.update(qupath_objects.read_objects(file).classes)
    return counts, [file.name for file in files], {}


def _points(root: Path, files: list[Path], images: str) -> Look:
    counts: Counter[str] = Counter()
    stems = {image.stem for image in (root / images).iterdir() if image.suffix.lower() in IMAGES}
    files = [file for file in files if file.stem in stems]
    if not files:
        raise InputError(f"{root / images}: no image of the name of a CSV file; expected a.png beside a.csv, say")
    options: dict[str, Any] = {}
    for file in files:
        try:
            rows = [row for row in csv.reader(read_lines(file)) if any(map(str.strip, row))]
        except csv.Error as error:
            raise InputError(f"{file}: not a CSV file ({error})") from None
        if not rows:
            continue
        header = [] if points_csv.is_number(rows[0][0]) else [cell.strip() for cell in rows[0]]
        if header:
            lower = [cell.lower() for cell in header]
            for key, known in (("x", X), ("y", Y), ("label", LABELS)):
                place = next((lower.index(name) for name in known if name in lower), None)
                if place is not None:
                    options[key] = header[place]
        column = header.index(options["label"]) if options.get("label") in header else 2
        labelled = [row[column].strip() if len(row) > column else "" for row in rows[bool(header) :]]
        counts.update(labelled if not header or "label" in options else [""] * len(labelled))
    return counts, [file.stem for file in files], options


def _coco(root: Path, files: list[Path], images: str) -> Look:
    if len(files) != 1:
        raise InputError(f"{root}: {len(files)} JSON files ({files[0].name}, {files[1].name}, ...); name one of them")
    content = coco.load(files[0])
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    used = [names[entry["category_id"]] for entry in content["annotations"] if entry["category_id"] in names]
    listed = [str(image["file_name"]) for image in content["images"]]
    below = any(is_file(root / images / name) for name in listed)  # else names say images/ themselves, maybe
    found = below or not any(is_file(root / name) for name in listed)
    return Counter(used), str(files[0].relative_to(root)), {} if found else {"images": "."}


_LOOK: dict[str, Callable[[Path, list[Path], str], Look]] = {
    "qupath_geojson": _qupath,
    "points_csv": _points,
    "coco": _coco,
}
