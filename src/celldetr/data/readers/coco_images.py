"""The pictures that a COCO file means: found by what it calls them, and of the size that it states."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from celldetr.data.readers.common import Picture
from celldetr.data.readers.layout import SUFFIXES
from celldetr.errors import InputError
from celldetr.io.left_out import LeftOut
from celldetr.io.names import find_below
from celldetr.io.safe_io import is_dir
from celldetr.io.tables import as_number

MOST = 200_000  # files that are looked through


def find_images(folder: Path) -> list[Path]:
    """The images in a folder and the folders in it."""
    found: list[Path] = []
    if is_dir(folder):
        for number, path in enumerate(folder.rglob("*")):
            if number > MOST:
                raise InputError(f"{folder}: holds more than {MOST:,} files; name the folder of the images in a card")
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                found.append(path)
    return sorted(found)


def file_of(folder: Path, name: str, known: list[Path]) -> Path:
    """The file of an image; where there is none, the path that it was looked for at."""
    return find_below(folder, name, known) or folder / name.replace("\\", "/").lstrip("/")


def tell_unlisted(folder: Path, known: list[Path], listed: Iterable[Path]) -> None:
    """Say which images in the folders of the listed ones are not listed.

    Raises:
        InputError: two entries mean one file.
    """
    used = set[Path]()
    for path in listed:
        if path in used:
            raise InputError(f"{path}: two images of the COCO file are this one; leave one, or write their folders")
        used.add(path)
    folders = {path.parent for path in used}
    left = LeftOut(folder)
    for path in known:
        if path.parent in folders and path not in used:
            left.add("images that the COCO file does not list", path.relative_to(folder).as_posix())
    left.tell()


def fitted(picture: Picture, entry: dict[str, Any], file: Path, path: Path) -> Picture:
    """A picture in the orientation that its labels have, by the size that the COCO file states.

    Raises:
        InputError: it has another size.
    """
    width, height = (as_number(str(entry.get(key))) or 0.0 for key in ("width", "height"))  # some write text
    if width < 1 or height < 1:
        return picture
    size = (int(height), int(width))
    for each in (picture, picture.stored()):
        if each.pixels.shape[:2] == size:
            return each
    rows, columns = picture.pixels.shape[:2]
    if size == (columns, rows):
        what = "it was turned"
    elif abs(columns * height - rows * width) <= max(width, height):
        what = f"it was scaled by {columns / width:.3g}"
    else:
        what = "it was cut, or is another picture"
    raise InputError(
        f"{file}: has {columns} x {rows} px, but {path} says {width:g} x {height:g}: {what} after labelling; put the"
        " labelled one there, or export the labels of this one"
    )
