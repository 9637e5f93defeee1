"""Infer a dataset card from a folder or file of labels, or from a patch set.

slides/case_1.geojson  slides/case_1.svs          QuPath's export beside each image or slide
tiles/images/a.png     tiles/labels/a.csv         x,y,class in pixels; both may also lie in one folder
set/images/*.png       set/labels.json            COCO, also in annotations/, as CVAT has it
a.png                  a.json                     of HoVer-Net, CellViT, LabelMe or X-AnyLabeling

What lies there and is not read is said.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celldetr.config import parse
from celldetr.data.card import CARDS, DatasetCard, load_card
from celldetr.data.patch_set import SPLITS, UNTYPED, PatchSet, is_patch_set, read_info
from celldetr.data.readers import coco, points_csv
from celldetr.data.readers.coco_images import find_images
from celldetr.data.readers.layout import SUFFIXES as IMAGES
from celldetr.data.readers.qupath_geojson import stem_of
from celldetr.data.readers.qupath_objects import PACKED, SUFFIXES, read_objects
from celldetr.errors import DataWarning, InputError, doubt
from celldetr.io.annotation_json import json_format
from celldetr.io.left_out import NAMED, LeftOut
from celldetr.io.names import find_below, folded, image_of
from celldetr.io.safe_io import expand_user, is_dir, is_file, yaml_names
from celldetr.io.tables import as_number, is_missing
from celldetr.slide.reader import SLIDES, UNREADABLE

SPLIT = "all"  # the one split of such a card
PATCHES = "patch_set"  # format of the card of a patch set
FOLDERS = ("labels", "annotations")  # of labels; the second is CVAT's
TABLES = {".csv", ".tsv"}
# Labels that are not read: pictures of masks, YOLO's lists, Pascal VOC, ImageScope, MATLAB, NDP.view, ImageJ, sheets.
OTHERS = {".txt", ".xml", ".mat", ".npy", ".ndpa", ".roi", ".xlsx", ".xls", ".parquet", ".gz"}
OTHERS |= {".jsonl", ".ndjson", ".geojsonl", ".geojsons", ".qpdata", ".qpproj"}  # and a value a line, QuPath's own
ABOUT = ("readme", "licen")  # first letters of files that are about others
_WHOLE = re.compile(r"^(\d+)\.0+$")
EXPECTED = "QuPath GeoJSON (.geojson), CSV (x,y,class) or COCO (.json)"


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
        raise InputError(f"{path}: no such folder or file; expected {EXPECTED}")
    if is_dir(path):
        found, root = _label_files(path), path
    else:
        found = {path: _format(path)}
        root = path.parent.parent if path.parent.name.lower() in FOLDERS else path.parent
    formats = {name for name in found.values() if name}
    if not formats:
        inside = sorted(path.rglob("*"))
        below = sorted({each.parent.relative_to(path).as_posix() for each in inside if _named(each)} - {"."})[:NAMED]
        hint = f"; there are some in {', '.join(below)}: name one of these" if below else ""
        if empty := [each.name for each in inside if each.parent == path and _named(each)][:NAMED]:
            hint += f"; {', '.join(empty)}: no labels known here"
        pictures = {each.stem for each in inside if each.suffix.lower() in IMAGES}
        lists = [each for each in inside if each.suffix.lower() != ".txt" or each.stem in pictures]  # YOLO's
        other = sorted({each.suffix.lower() for each in lists} & OTHERS)
        hint += f"; files {', '.join(other)} are not read, export one of these formats" if other else ""
        raise InputError(f"{path}: no labels; expected {EXPECTED}, in it or in labels/{hint}")
    if len(formats) > 1:
        several = f"labels of {len(formats)} formats ({', '.join(sorted(formats))})"
        raise InputError(f"{path}: {several}; name a file, or move some elsewhere")
    (name,) = formats
    files = [file for file, format in found.items() if format == name]
    images = _folder(root, "images")
    counted, split, options = _FORMATS[name](root, files, images.name if is_dir(images) else ".", mpp)
    counted = _without_missing(counted, path)
    kinds = join_spellings(counted, path)
    values: dict[str, Any] = {
        "name": path.name or "data",
        "title": path.name,
        "format": name,
        "root": str(root),
        "mpp": mpp,
        "types": kinds or {"nucleus": []},
        "splits": {SPLIT: split},
        "licence": "unknown",
        "citation": "",
        "options": options,
    }
    counts = {kind: sum(counted[label] for label in labels) for kind, labels in kinds.items()}
    if counted[""]:
        counts[""] = counted[""]
    return OwnData(parse(DatasetCard, values, str(path)), counts)


def _without_missing(counted: Counter[str], path: Path) -> Counter[str]:
    """Counts of the classes, with NA and the like as no class."""
    missing = [label for label in counted if is_missing(label)]
    kept = Counter({label: count for label, count in counted.items() if label not in missing})
    kept[""] = sum(counted[label] for label in missing)
    if kept[""] and len(kept) > 1:
        doubt(f"{path}: {kept['']:,} of {kept.total():,} cells have no class: their type is unknown")
    return kept


def join_spellings(counted: Counter[str], path: Path | str) -> dict[str, list[str]]:
    """Types and their labels: one class in several spellings is one type, called as most of its cells are."""
    spellings: dict[str, list[str]] = {}
    for label, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
        if label:
            spellings.setdefault(_spelt(label), []).append(label)
    for labels in spellings.values():
        if len(labels) > 1:
            doubt(f"{path}: classes {', '.join(map(repr, labels))} are taken for one type, {labels[0]!r}")
    return {_WHOLE.sub(r"\1", labels[0]): labels for labels in sorted(spellings.values())}


def _spelt(label: str) -> str:
    """A class without case, blanks and underscores; 1.0 as 1, as tables with gaps have it."""
    text = re.sub(r"[\s_]+", " ", unicodedata.normalize("NFC", label)).strip().casefold()
    return _WHOLE.sub(r"\1", text)


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


def _folder(parent: Path, name: str) -> Path:
    """A folder by its name in any case (``Labels``)."""
    if not is_dir(parent / name):
        for entry in sorted(parent.iterdir()):
            if entry.name.lower() == name and is_dir(entry):
                return entry
    return parent / name


def _label_files(folder: Path) -> dict[Path, str]:
    """The files of ``labels/`` or ``annotations/`` if any there holds labels, else those of the folder itself.

    Returns:
        the format of each, "" where it holds none.
    """
    for place in (*(_folder(folder, name) for name in FOLDERS), folder):
        entries = sorted(place.iterdir()) if is_dir(place) else []
        entries = [entry for entry in entries if not entry.name.startswith(".")]
        formats = {entry: _format(entry) for entry in entries if is_file(entry)}
        broken = [entry for entry in entries if _named(entry) and entry.is_symlink() and not entry.exists()]
        if broken and not any(formats.values()):
            raise InputError(f"{broken[0]}: is a link to nothing ({broken[0].readlink()}); copy the file itself there")
        if any(formats.values()):
            _tell_others(place, folder, entries, formats, broken)
            return formats
    return {}


def _tell_others(place: Path, folder: Path, entries: list[Path], formats: dict[Path, str], broken: list[Path]) -> None:
    """Say what of a place of labels, and of the folder that it is in, is not read."""
    left = LeftOut(place)
    for entry in entries:
        if entry in broken:
            left.add("broken links", entry.name)
        elif formats.get(entry) == "" and entry.suffix.lower() in OTHERS and not entry.name.lower().startswith(ABOUT):
            left.add(f"files {entry.suffix} that are no labels known here", entry.name)
        elif entry in formats and _named(entry) and not formats[entry]:
            left.add("JSON files without labels", entry.name)
        elif is_dir(entry) and entry.name.lower() != "images" and any(map(_named, entry.iterdir())):
            left.add("folders with labels further down", entry.name)
    left.tell()
    if place != folder:
        pictures = [
            picture for each in ("images", ".") for picture in _pictures(_folder(folder, each), IMAGES | SLIDES)
        ]
        above = LeftOut(folder)
        for entry in sorted(folder.iterdir()):
            if is_file(entry) and _named(entry) and any(folded(entry.stem) == folded(each.stem) for each in pictures):
                above.add(f"files of labels, as there are some in {place.name}/", entry.name)
        above.tell()


def _named(file: Path) -> bool:
    """Whether a file is called as files of labels are."""
    name = file.name.lower()
    return name.endswith(PACKED) or file.suffix.lower() in TABLES


def _format(file: Path) -> str:
    """The format of a file; "" if it holds no labels."""
    name = file.name.lower()
    if name.endswith(SUFFIXES):
        return "qupath_geojson"
    if file.suffix.lower() in TABLES:
        return "points_csv"
    if not name.endswith(PACKED):
        return ""
    return {"": "", "COCO": "coco"}.get(json_format(file), "qupath_geojson")


Contents = tuple[Counter[str], str | list[str], dict[str, Any]]  # cells of each class, split and options of the card


def _qupath(root: Path, files: list[Path], images: str, mpp: float | None) -> Contents:
    counts: Counter[str] = Counter()
    empty = LeftOut(files[0].parent, "read as images without nuclei")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # said when the samples are read
        for file in files:
            classes = read_objects(file, mpp=mpp).classes
            counts.update(classes)
            if not classes:
                empty.add("files without an object", file.name)
    empty.tell()
    pictures = _pictures(root / images, IMAGES | SLIDES)
    stems = {file: stem_of(file) for file in files}
    used = {image_of(stem, pictures) for stem in stems.values()}
    several = len(files) > 1 or len(pictures) > 1
    _tell_unused(root / images, [picture for picture in pictures if picture not in used] if several else [])
    return counts, [file.name for file in files], {"images": images, "labels": _below(files[0].parent, root)}


def _points(root: Path, files: list[Path], images: str, mpp: float | None) -> Contents:
    counts: Counter[str] = Counter()
    pictures, left = _pictures(root / images, IMAGES), LeftOut(files[0].parent)
    slides = _pictures(root / images, SLIDES - IMAGES)
    pairs: dict[Path, Path] = {}
    for file in files:
        picture = image_of(file.stem, pictures)
        if picture is None:
            of_slide = " (of slides only QuPath's GeoJSON is read)" if image_of(file.stem, slides) else ""
            left.add(f"tables without an image of their name{of_slide}", file.name)
        elif picture in pairs:
            raise InputError(
                f"{files[0].parent}: {pairs[picture].name} and {file.name} are both labels of {picture.name}; leave one"
            )
        else:
            pairs[picture] = file
    if not pairs:
        _tell_unused(root / images, [])
        raise InputError(f"{root / images}: no image of the name of a CSV file; expected a.png beside a.csv, say")
    left.tell()
    _tell_unused(root / images, [picture for picture in pictures if picture not in pairs])
    empty = LeftOut(files[0].parent, "read as images without nuclei")
    third = LeftOut(files[0].parent, "read as classes")
    for file in pairs.values():
        points = points_csv.read_points(file, optional=True)
        counts.update(points.labels or [""] * len(points.rows))
        if not points.rows:
            empty.add("tables without a row", file.name)
        elif not points.has_header and points.labels and all(as_number(label) is not None for label in points.labels):
            third.add("third columns of numbers without a header; if they are z, say, write x,y,z above", file.name)
    empty.tell()
    third.tell()
    options = {
        "images": images,
        "labels": _below(files[0].parent, root),
        "files": {picture.name: file.name for picture, file in pairs.items()},
    }
    return counts, [picture.name for picture in pairs], options


def _pictures(folder: Path, suffixes: set[str]) -> list[Path]:
    files = sorted(folder.iterdir()) if is_dir(folder) else []
    return [file for file in files if file.suffix.lower() in suffixes and not file.name.startswith(".")]


def _tell_unused(folder: Path, pictures: list[Path]) -> None:
    left = LeftOut(folder)
    for picture in pictures:
        left.add("images without labels", picture.name)
    for file in _pictures(folder, set(UNREADABLE)):
        left.add(f"files {file.suffix.lower()}, which {UNREADABLE[file.suffix.lower()]}", file.name)
    left.tell()


def _coco(root: Path, files: list[Path], images: str, mpp: float | None) -> Contents:
    if len(files) != 1:
        raise InputError(f"{root}: {len(files)} JSON files ({files[0].name}, {files[1].name}, ...); name one of them")
    content = coco.load(files[0])
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    used = [names[entry["category_id"]] for entry in content["annotations"] if entry["category_id"] in names]
    listed = [str(image["file_name"]) for image in content["images"]]
    known = find_images(root / images)
    # Names may begin with images/ themselves, and pictures lie elsewhere.
    if images != "." and not all(find_below(root / images, name, known) for name in listed):
        below = find_images(root)
        if all(find_below(root, name, below) for name in listed):
            images = "."
    return Counter(used), _below(files[0], root), {"images": images}


def _below(path: Path, root: Path) -> str:
    return str(path.relative_to(root))


_FORMATS: dict[str, Callable[[Path, list[Path], str, float | None], Contents]] = {
    "qupath_geojson": _qupath,
    "points_csv": _points,
    "coco": _coco,
}
