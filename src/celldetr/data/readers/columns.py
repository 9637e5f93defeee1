"""Which columns of a table of cells are what: known from their names, or refused where names leave a doubt.

Known are plain ``x,y,class`` in pixels, what celldetr writes, QuPath's detection tables, CellProfiler's objects and
scikit-image's regions. Corners (xmin, ymin, xmax, ymax) are boxes. A unit is read from the name of a column only.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from celldetr.errors import InputError, doubt, near
from celldetr.io.tables import Table, as_number, is_missing

LABELS = ("class", "classification", "celltype", "classname", "category", "type", "label", "name")
_LABEL = re.compile(r".*(class|celltype|phenotype|classification)")  # ends of other names
IMAGES = ("image", "imagename", "imagenumber", "filename", "file", "slide", "slidename", "slideid", "imagelocation")
TILES = ("tile", "patch", "fov", "tilename", "patchname")
OBJECTS = {"annotation", "tmacore", "root", "image", "pathannotationobject", "pathrootobject"}  # of QuPath, no cells
STATISTICS = {"mean", "sd", "min", "max"}  # rows that ImageJ's Summarize adds to the results
# Names without case, blanks, brackets and accents.
_PLACES = re.compile(
    r"(?P<pre>centroid|center|centre|locationcenter|areashapecenter|pos|position|coord)?"
    r"(?P<axis>[xy])(?P<post>centroid|center|centre|coord|coordinate|position)?(?P<unit>px|pixels?|um|microns?)?"
)
_FROM_ZERO = ("locationcenter", "areashapecenter")  # count from the centre of the first pixel: CellProfiler
CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
_SIZES = {"w", "h", "width", "height", "bw", "bh", "x2", "y2", "xmax", "ymax", "dx", "dy"}
_IMAGEJ = {"area", "mean", "min", "max", "slice", "counter", "bx", "by", "xm", "ym"}
_OF_IMAGEJ = 3  # of these beside x and y; or one, where the first column counts the rows and has no name
_REMEDY = "name the columns x_px,y_px (pixels), x_um,y_um (micrometres) or xmin,ymin,xmax,ymax (boxes in pixels)"
FEW = 10  # rows; of so few cells each may be of a class of its own
ROUNDED = 0.02  # that shares of classes may miss 1


@dataclass(frozen=True)
class Columns:
    """Columns of a table.

    Attributes:
        places: positions of x and y, or of xmin, ymin, xmax and ymax.
        label: position of the class; None: there is none.
        micrometres: whether places are in micrometres.
        offset: to be added to places.
        image: the one image that the table says it is of; "" where it does not.
    """

    places: tuple[int, ...]
    label: int | None
    micrometres: bool = False
    offset: float = 0.0
    image: str = ""


def plain(name: str) -> str:
    """A name for comparisons: ``Centroid X µm`` -> ``centroidxum``."""
    text = unicodedata.normalize("NFKD", name.replace("Â", "")).casefold().replace("μ", "u")
    return re.sub(r"[\s_\-\[\]().:/]", "", text)


def find_columns(table: Table, label: bool = True) -> Columns:
    """The columns of a table by their names; without a header x, y and class.

    Args:
        table: the table.
        label: whether classes are wanted.

    Raises:
        InputError: there are none, or names leave a doubt.
    """
    if not table.header:
        return _without_header(table)
    names = [plain(name) for name in table.header]
    image = _image(table, names)
    _check_rows(table, names)
    places, micrometres, offset = _places(table, names)
    return Columns(places, _label(table, names) if label else None, micrometres, offset, image)


def _without_header(table: Table) -> Columns:
    width = max((len(cells) for _, cells in table.rows), default=3)
    if not 2 <= width <= 3:
        raise InputError(
            f"{table.path}: {width} columns without a header; expected x,y,class. If these are others, write their"
            " names in the first row; if commas are decimal signs, put semicolons between the columns"
        )
    first = [cells[0] for _, cells in table.rows]
    if len(first) > 2 and first in ([str(i + start) for i in range(len(first))] for start in (0, 1)):
        raise InputError(
            f"{table.path}: no header, and its first column counts the rows; expected x,y,class: leave that column out,"
            " or write the names of the columns in the first row"
        )
    third = [cells[2] for _, cells in table.rows] if width == 3 else []
    numbers = [value for text in third if (value := as_number(text)) is not None]
    if any(not value.is_integer() for value in numbers) or len(set(numbers)) > max(len(third) / 2, FEW):
        raise InputError(
            f"{table.path}: no header, and its third column holds numbers like {third[0]}, which are no classes;"
            " expected x,y,class: leave that column out, or write the names of the columns in the first row"
        )
    return Columns((0, 1), 2 if width == 3 else None)


def _check_rows(table: Table, names: list[str]) -> None:
    """Refuse rows that are no cells, and doubt places that may count from the corners of several tiles."""
    last = {plain(cell) for _, cells in table.rows[-len(STATISTICS) :] for cell in cells}
    if last >= STATISTICS:
        raise InputError(f"{table.path}: its last rows are statistics (Mean, SD, Min, Max), no cells; remove them")
    for position, name in enumerate(names):
        if name not in ("objecttype", "name", *TILES):
            continue
        values = {plain(cells[position]) for _, cells in table.rows}
        if name not in TILES and values & OBJECTS and values - OBJECTS - {""}:
            raise InputError(
                f"{table.path}: column {table.header[position]!r} has cells beside other objects"
                f" ({', '.join(sorted(values & OBJECTS))}); export the detections or cells alone"
            )
        if name in TILES and len(values) > 1:
            doubt(
                f"{table.path}: has cells of {len(values)} tiles (column {table.header[position]!r}), whose places are"
                " read as those of the whole image; do they count from its corner?"
            )


def _image(table: Table, names: list[str]) -> str:
    """The image that all cells are of, by the columns that say it, unless it is a number; "" where none does."""
    image = ""
    for position, name in enumerate(names):
        if name in IMAGES:
            values = sorted({cells[position] for _, cells in table.rows if not is_missing(cells[position])})
            if len(values) > 1:
                raise InputError(
                    f"{table.path}: has cells of {len(values)} images ({values[0]}, {values[1]}, ...) in column"
                    f" {table.header[position]!r}; write a table for each image, called as the image is"
                )
            image = values[0] if values and as_number(values[0]) is None else image
    return image


def _places(table: Table, names: list[str]) -> tuple[tuple[int, ...], bool, float]:
    """Positions of the places, whether they are in micrometres, and what is to be added."""
    for corners in CORNERS:
        if all(corner in names for corner in corners):
            return tuple(_once(table, names, corner) for corner in corners), False, 0.0
    if "centroid0" in names and "centroid1" in names:  # row and column of scikit-image, from the first pixel's centre
        return (_once(table, names, "centroid1"), _once(table, names, "centroid0")), False, 0.5
    pairs: dict[tuple[str, str, str], dict[str, str]] = {}
    for name in names:
        if match := _PLACES.fullmatch(name):
            key = (match["pre"] or "", match["post"] or "", match["unit"] or "")
            pairs.setdefault(key, {})[match["axis"]] = name
    found = [(key, pair) for key, pair in pairs.items() if len(pair) == 2]
    in_pixels = [(key, pair) for key, pair in found if key[2].startswith("p")]
    chosen = in_pixels or found
    if not chosen:
        hint = near("x", table.header)
        raise InputError(f"{table.path}: no column 'x' in its header; {hint}; {_REMEDY}")
    if len(chosen) > 1:
        several = " or ".join("{x}, {y}".format(**pair) for _, pair in chosen)
        raise InputError(f"{table.path}: which columns are the places, {several}? {_REMEDY[0].upper()}{_REMEDY[1:]}")
    ((before, after, unit), pair) = chosen[0]
    stated = {cells[i] for i, name in enumerate(names) if name in ("unit", "units") for _, cells in table.rows}
    if not unit and (other := stated - {"", "px", "pixel", "pixels"}):
        raise InputError(f"{table.path}: says that its unit is {min(other)!r}; {_REMEDY}")
    if not unit and "transcriptcounts" in names:
        raise InputError(
            f"{table.path}: is a cells table of Xenium, in micrometres of its own image; celldetr spatial reads the run"
        )
    if not (before or after or unit):
        if sizes := [name for name in table.header if plain(name) in _SIZES]:
            raise InputError(
                f"{table.path}: with {sizes[0]!r} beside x and y, are these a corner or the centre? {_REMEDY}"
            )
        if len(_IMAGEJ & set(names)) >= (_OF_IMAGEJ if table.header[0] else 1):
            raise InputError(
                f"{table.path}: looks like ImageJ's results, whose X and Y are in the unit of the image's scale;"
                f" {_REMEDY}"
            )
    places = _once(table, names, pair["x"]), _once(table, names, pair["y"])
    return places, unit[:1] in ("u", "m"), 0.5 if before in _FROM_ZERO else 0.0


def _once(table: Table, names: list[str], name: str) -> int:
    position = names.index(name)
    if names.count(name) > 1:
        raise InputError(f"{table.path}: has column {table.header[position]!r} twice; rename or remove one of them")
    return position


def _label(table: Table, names: list[str]) -> int | None:
    """Position of the column of classes; None where there is none."""
    columns: dict[int, list[str]] = {}
    numbering = ""
    called = [names.index(name) for name in LABELS if name in names]
    for position in called or [i for i, name in enumerate(names) if _LABEL.fullmatch(name)]:
        values = ["" if is_missing(cells[position]) else cells[position] for _, cells in table.rows]
        if _counts(values) and names[position] in ("label", "name"):
            numbering = table.header[position]
        else:
            columns[_once(table, names, names[position])] = values
    filled = [position for position, values in columns.items() if any(values)]
    kept = [position for position in filled if names[position] != "name"] or filled or list(columns)[:1]
    if len({tuple(columns[position]) for position in kept}) > 1:
        several = " or ".join(repr(table.header[position]) for position in kept)
        raise InputError(f"{table.path}: is the class in column {several}? Rename the other, or leave it out")
    if not kept:
        if numbering:
            doubt(f"{table.path}: column {numbering!r} counts the cells and is not read as their class")
        _tell_likely(table)
        return None
    values = columns[kept[0]]
    if len(values) > FEW and len(set(values)) > len(values) / 2:
        raise InputError(
            f"{table.path}: column {table.header[kept[0]]!r} has {len(set(values))} values for {len(values)} cells; if"
            " it does not name classes, rename it, else join some"
        )
    return kept[0]


def _counts(values: list[str]) -> bool:
    """Whether values number the cells: whole numbers, each once; of a few cells, in the order of the rows."""
    if not all(value.isdigit() for value in values) or len(set(values)) < len(values):
        return False
    rising = [int(value) - int(values[0]) for value in values] == list(range(len(values)))
    return len(values) > FEW or (rising and len(values) > 2)


def _tell_likely(table: Table) -> None:
    """Warn where classes may be in a column of another name, few different texts, or in a column each, as shares."""
    numbers = {name: [as_number(cells[i]) for _, cells in table.rows] for i, name in enumerate(table.header)}
    shares = {name: own for name, own in numbers.items() if all(value is not None and 0 <= value <= 1 for value in own)}
    if len(shares) > 1 and all(abs(sum(filter(None, row)) - 1) < ROUNDED for row in zip(*shares.values(), strict=True)):
        names = ", ".join(map(repr, shares))
        doubt(f"{table.path}: no column of classes; if {names} are shares of classes, write a column class instead")
    for position, name in enumerate(table.header):
        values = {cells[position] for _, cells in table.rows}
        is_text = not any(is_missing(value) or any(map(str.isdigit, value)) for value in values)
        if is_text and 1 < len(values) <= len(table.rows) / 2:
            some = ", ".join(map(repr, sorted(values)[:3]))
            doubt(f"{table.path}: no column of classes; if they are in {name!r} ({some}), call it class")
