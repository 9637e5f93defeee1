"""Infer a dataset card from a folder or file of labels, or from a patch set.

slides/case_1.geojson  slides/case_1.svs          QuPath's export beside each image or slide
tiles/images/a.png     tiles/labels/a.csv         x,y,class in pixels; both may also lie in one folder
set/images/*.png       set/labels.json            COCO
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celldetr.config import parse
from celldetr.data.card import CARDS, DatasetCard, load_card
from celldetr.data.patch_set import SPLITS, UNTYPED, PatchSet, is_patch_set, read_info
from celldetr.data.readers import coco, points_csv, qupath_objects
from celldetr.data.readers.layout import SUFFIXES as IMAGES
from celldetr.errors import InputError
from celldetr.io.safe_io import expand_user, is_dir, is_file, yaml_names

SPLIT = "all"  # the one split of such a card
PATCHES = "patch_set"  # format of the card of a patch set
# Names of columns in CSV files, in lower case.
COLUMNS = {
    "x": ("x", "x_px", "x [px]"),
    "y": ("y", "y_px", "y [px]"),
    "label": ("class", "label", "type", "classification", "name"),
}


@dataclass(frozen=True)
class OwnData:
    """An inferred card.

    Attributes:
        card: with ``SPLIT``, and the classes of the cells as types; where no cell has one, the one type ``nucleus``.
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
            return _patch_card(path.absolute(), mpp)
        if is_dir(path) or (is_file(path) and path.suffix.lower() not in (".yaml", ".yml")):
            return read_own(path, mpp).card
    card = load_card(name_or_path)
    return card if mpp is None else card.model_copy(update={"mpp": mpp})


def read_own(path: Path, mpp: float | None = None) -> OwnData:
    """Infer the card of a folder or file of labels; images are not opened.

    Args:
        path: a folder with QuPath GeoJSON, CSV or COCO files (or with a folder ``labels`` of them), one such file, or
            a patch set with types.
        mpp: micrometres per pixel of the images; needed where they do not say it.

    Raises:
        InputError: no labels, labels of more than one format, or files that are not what their names say.
    """
    path = expand_user(path).absolute()
    if is_patch_set(path):
        types = read_info(path).types
        if not types:
            raise InputError(
                f"{path}: is a patch set, whose cells have no types to learn; name it in a recipe:"
                " train: [{card: FOLDER, split: all}]"
            )
        counts = PatchSet(path).counts[:, :-1].sum(axis=0).tolist()
        return OwnData(_patch_card(path, mpp), dict(zip(types, counts, strict=True)))
    if not is_dir(path) and not is_file(path):
        raise InputError(f"{path}: no such folder or file; expected QuPath GeoJSON, CSV (x,y,class) or COCO JSON files")
    if is_dir(path):
        files, root = _label_files(path), path
    else:
        files, root = [path], path.parent.parent if path.parent.name == "labels" else path.parent
    formats = {name for file in files if (name := _format(file))}
    if not formats:
        expected = "QuPath GeoJSON (.geojson), CSV (x,y,class) or COCO (.json), in it or in labels/"
        raise InputError(f"{path}: no labels; expected {expected}")
    if len(formats) > 1:
        several = f"labels of {len(formats)} formats ({', '.join(sorted(formats))})"
        raise InputError(f"{path}: {several}; name a file, or move some elsewhere")
    (name,) = formats
    files = [file for file in files if _format(file) == name]
    counted, split, options = _FORMATS[name](root, files, "images" if is_dir(root / "images") else ".")
    values: dict[str, Any] = {
        "name": path.name or "data",
        "title": path.name,
        "format": name,
        "root": str(root),
        "mpp": mpp,
        "types": {label: [label] for label in sorted(filter(None, counted))} or {"nucleus": []},
        "splits": {SPLIT: split},
        "licence": "unknown",
        "citation": "",
        "options": options,
    }
    return OwnData(parse(DatasetCard, values, str(path)), dict(counted))


def _patch_card(path: Path, mpp: float | None) -> DatasetCard:
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
        files = [file for file in files if is_file(file) and not file.name.startswith(".")]
        if any(map(_format, files)):
            return files
    return []


def _format(file: Path) -> str:
    """The format of a file by its name; "" if it holds no labels."""
    if file.name.lower().endswith(qupath_objects.SUFFIXES):
        return "qupath_geojson"
    return {".csv": "points_csv", ".json": "coco"}.get(file.suffix.lower(), "")


Contents = tuple[Counter[str], str | list[str], dict[str, Any]]  # cells of each class, split and options of the card


def _qupath(root: Path, files: list[Path], images: str) -> Contents:
    counts: Counter[str] = Counter()
    for file in files:
        counts.update(qupath_objects.read_objects(file).classes)
    return counts, [file.name for file in files], {"images": images, "labels": _below(files[0].parent, root)}


def _points(root: Path, files: list[Path], images: str) -> Contents:
    counts: Counter[str] = Counter()
    stems = {image.stem for image in (root / images).iterdir() if image.suffix.lower() in IMAGES}
    files = [file for file in files if file.stem in stems]
    if not files:
        raise InputError(f"{root / images}: no image of the name of a CSV file; expected a.png beside a.csv, say")
    options: dict[str, Any] = {"images": images, "labels": _below(files[0].parent, root)}
    for file in files:
        header, rows = points_csv.read_table(file)
        lower = [name.lower() for name in header]
        for key, names in COLUMNS.items():
            if known := [name for name in names if name in lower]:
                options[key] = header[lower.index(known[0])]
        column = 2
        if header:
            column = header.index(options["label"]) if options.get("label") in header else len(header)
        counts.update(cells[column] if len(cells) > column else "" for _, cells in rows)
    return counts, [file.stem for file in files], options


def _coco(root: Path, files: list[Path], images: str) -> Contents:
    if len(files) != 1:
        raise InputError(f"{root}: {len(files)} JSON files ({files[0].name}, {files[1].name}, ...); name one of them")
    content = coco.load(files[0])
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    used = [names[entry["category_id"]] for entry in content["annotations"] if entry["category_id"] in names]
    listed = [str(image["file_name"]) for image in content["images"]]
    # File names may begin with images/ themselves.
    if not any(is_file(root / images / name) for name in listed) and any(is_file(root / name) for name in listed):
        images = "."
    return Counter(used), _below(files[0], root), {"images": images}


def _below(path: Path, root: Path) -> str:
    return str(path.relative_to(root))


_FORMATS: dict[str, Callable[[Path, list[Path], str], Contents]] = {
    "qupath_geojson": _qupath,
    "points_csv": _points,
    "coco": _coco,
}
