"""Images in a folder, labels in another, splits by folder, list file, list or table: what most sets have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from celldetr.config import Config
from celldetr.data.card import DatasetCard
from celldetr.data.readers.common import read_lines
from celldetr.errors import InputError, near
from celldetr.io.names import find_below, folded
from celldetr.io.safe_io import is_dir, is_file
from celldetr.io.tables import as_number, read_table

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"}


class Table(Config):
    """A CSV file with a header and a row for each image."""

    file: str
    image: str = "image"  # column of file names
    split: str = ""  # column that splits name values of; "" = the table does not say
    mpp: str = ""  # column of micrometres per pixel; "" = the card's mpp holds


class FileLayout(Config):
    """Where images and labels are under the card's root. ``{split}`` stands for the card's value of the split."""

    images: str = "{split}/images"
    labels: str = "{split}/labels"
    table: Table | None = None
    # Split -> patients (``group_pattern``) whose images are left out of it, because another split has them too.
    exclude: dict[str, list[str]] = Field(default_factory=dict)
    # Image -> file of its labels, where that is not called as the image is.
    files: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One image of a split."""

    name: str  # the file's name without suffix
    image: Path
    labels: Path  # folder of the labels
    mpp: float | None  # from the table; None: the card's
    file: str = ""  # of its labels, where the card names it

    def label(self, suffix: str) -> Path:
        """The label file of this image that ends in ``suffix``; letters may be composed or not, of either case."""
        path = self.labels / (self.file or f"{self.name}{suffix}")
        if is_file(path) or not is_dir(self.labels):
            return path
        wanted = folded(path.name)
        return next((other for other in sorted(self.labels.iterdir()) if folded(other.name) == wanted), path)


def find_items(card: DatasetCard, split: str, layout: FileLayout) -> Iterator[Item]:
    """The images of a split, in the order of its list, or by name.

    The card's value of the split is, in this order: a list of image names; values of the table's split column (one or a
    list of them) where there is such a column; the name of a list file under the root; a folder, of which all images
    are taken.

    Raises:
        InputError: a folder, list file, table or image is missing, or the table is not as described.
    """
    root, value = card.directory(), card.split(split)
    folder = "" if isinstance(value, list) else str(value)
    images, labels = (root / each.replace("{split}", folder) for each in (layout.images, layout.labels))
    if not is_dir(images):
        raise InputError(f"dataset {card.name!r}, split {split!r}: no directory {images}")
    files = {path.name: path for path in sorted(images.iterdir()) if path.suffix.lower() in SUFFIXES}
    stems: dict[str, list[Path]] = {}
    for path in files.values():
        stems.setdefault(path.stem, []).append(path)
    table = _read_table(root / layout.table.file, layout.table) if layout.table else None
    if layout.table and layout.table.split and table is not None:
        column = table[layout.table.split]
        names = list(column.index[column.isin(list(map(str, value)) if isinstance(value, list) else [folder])])
        if not names:
            raise InputError(
                f"{root / layout.table.file}: no image of split {folder or value!r}; {near(folder, column.unique())}"
            )
    elif isinstance(value, list):
        names = value
    elif is_file(root / folder):
        names = [line for line in read_lines(root / folder) if line]
    else:
        names = list(files)
    excluded = layout.exclude.get(split, ())
    for name in names:
        found = files.get(name) or _by_stem(stems, name, images) or find_below(images, name, files.values())
        if found is None:
            raise InputError(f"dataset {card.name!r}, split {split!r}: no image {name!r} in {images}")
        path = found
        if excluded and card.group_of(path.stem) in excluded:
            continue
        mpp = None
        if layout.table and layout.table.mpp and table is not None:
            mpp = _mpp(table[layout.table.mpp], path, root / layout.table.file)
        yield Item(path.stem, path, labels, mpp, layout.files.get(path.name, ""))


def _by_stem(stems: dict[str, list[Path]], name: str, folder: Path) -> Path | None:
    paths = stems.get(name, [])
    if len(paths) > 1:
        raise InputError(
            f"{folder}: {name!r} may be {paths[0].name} or {paths[1].name}; write the suffix, or move one elsewhere"
        )
    return paths[0] if paths else None


def _read_table(path: Path, table: Table) -> pd.DataFrame:
    """The table, indexed by image name; all values are text."""
    import pandas as pd

    read = read_table(path)
    # Names of images as Windows writes them, or with folders.
    frame = pd.DataFrame([cells for _, cells in read.rows], columns=read.header or None, dtype=str)
    for column in filter(None, (table.image, table.split, table.mpp)):
        if column not in frame.columns:
            raise InputError(f"{path}: no column {column!r}; {near(column, frame.columns)}")
    frame[table.image] = frame[table.image].str.replace("\\", "/", regex=False).str.rpartition("/")[2]
    twice = frame[table.image][frame[table.image].duplicated()]
    if len(twice):
        raise InputError(f"{path}, row {twice.index[0] + 2}: image {twice.iloc[0]!r} is listed twice")
    return frame.set_index(table.image)


def _mpp(column: pd.Series[str], image: Path, table: Path) -> float:
    """The image's mpp in a column of the table."""
    text = column.get(image.name, column.get(image.stem))
    if text is None:
        raise InputError(f"{table}: no row for image {image.name!r}")
    mpp = as_number(text) or 0.0
    if not 0 < mpp < float("inf"):
        raise InputError(f"{table}, image {image.name!r}: mpp must be above 0, got {text!r}")
    return mpp
