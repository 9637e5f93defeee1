"""Images in a folder, labels in another, splits by folder, list file, list or table: what most sets have in common."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from celldetr.config import Config
from celldetr.data.card import DatasetCard
from celldetr.data.readers.common import read_lines
from celldetr.errors import InputError, near
from celldetr.io.safe_io import is_dir, is_file

SUFFIXES = {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"}


class Table(Config):
    """A CSV file with a header and a row for each image."""

    file: str
    image: str = "image"  # column of file names
    split: str = ""  # column that splits name values of; "" = the table does not say
    mpp: str = ""  # column of micrometres per pixel; "" = the card's mpp holds


class Layout(Config):
    """Where images and labels are under the card's root. ``{split}`` stands for the card's value of the split."""

    images: str = "{split}/images"
    labels: str = "{split}/labels"
    table: Table | None = None
    # Split -> patients (``group_pattern``) whose images are left out of it, because another split has them too.
    exclude: dict[str, list[str]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One image of a split."""

    name: str  # the file's name without suffix
    image: Path
    labels: Path  # folder of the labels
    mpp: float | None  # from the table; None: the card's

    def label(self, suffix: str) -> Path:
        """The label file of this image that ends in ``suffix``."""
        return self.labels / f"{self.name}{suffix}"


def find_items(card: DatasetCard, split: str, layout: Layout) -> Iterator[Item]:
    """The images of a split, in the order of its list, or by name.

    The card's value of the split is, in this order: a list of image names; values of the table's split column (one or a
    list of them) where there is such a column; the name of a list file under the root; a folder, of which all images
    are taken.

    Raises:
        InputError: a folder, list file, table or image is missing, or the table is not as described.
    """
    root = card.directory()
    value = card.split(split)
    table = _read_table(root, layout.table) if layout.table else {}
    folder = "" if isinstance(value, list) else str(value)
    images = root / layout.images.replace("{split}", folder)
    labels = root / layout.labels.replace("{split}", folder)
    if not is_dir(images):
        raise InputError(f"dataset {card.name!r}, split {split!r}: no directory {images}")
    files = {path.name: path for path in sorted(images.iterdir()) if path.suffix.lower() in SUFFIXES}
    if layout.table and layout.table.split:
        wanted = {str(part) for part in value} if isinstance(value, list) else {folder}
        names = [name for name, row in table.items() if row[layout.table.split] in wanted]
        if not names:
            found = {row[layout.table.split] for row in table.values()}
            raise InputError(
                f"{root / layout.table.file}: no image of split {folder or value!r}; {near(folder, found)}"
            )
    elif isinstance(value, list):
        names = value
    elif is_file(root / folder):
        names = [line for line in read_lines(root / folder) if line]
    else:
        names = list(files)
    stems = {path.stem: path for path in files.values()}
    excluded = layout.exclude.get(split, ())
    for name in names:
        path = files.get(name) or stems.get(name)
        if path is None:
            raise InputError(f"dataset {card.name!r}, split {split!r}: no image {name!r} in {images}")
        if excluded and card.group_of(path.stem) in excluded:
            continue
        yield Item(path.stem, path, labels, _table_mpp(table, path, root, layout.table))


def _read_table(root: Path, table: Table) -> dict[str, dict[str, str]]:
    """Rows of the table by image name."""
    path = root / table.file
    lines = read_lines(path)
    try:
        return _rows(path, csv.DictReader(lines), table)
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None


def _rows(path: Path, reader: csv.DictReader[str], table: Table) -> dict[str, dict[str, str]]:
    columns = reader.fieldnames or []
    for column in filter(None, (table.image, table.split, table.mpp)):
        if column not in columns:
            raise InputError(f"{path}: no column {column!r}; {near(column, columns)}")
    rows: dict[str, dict[str, str]] = {}
    for number, row in enumerate(reader, start=2):
        if any(value is None for value in row.values()):
            raise InputError(f"{path}, row {number}: fewer values than columns")
        if row[table.image] in rows:
            raise InputError(f"{path}, row {number}: image {row[table.image]!r} is listed twice")
        rows[row[table.image]] = row
    return rows


def _table_mpp(table: dict[str, dict[str, str]], image: Path, root: Path, settings: Table | None) -> float | None:
    """The image's mpp where the table has one."""
    if settings is None or not settings.mpp:
        return None
    row = table.get(image.name) or table.get(image.stem)
    if row is None:
        raise InputError(f"{root / settings.file}: no row for image {image.name!r}")
    try:
        mpp = float(row[settings.mpp])
    except ValueError:
        mpp = 0.0
    if not 0 < mpp < float("inf"):
        raise InputError(
            f"{root / settings.file}, image {image.name!r}: mpp must be above 0, got {row[settings.mpp]!r}"
        )
    return mpp
