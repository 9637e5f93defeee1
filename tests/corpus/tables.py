"""CSV and its relatives: delimiters, decimal signs, encodings, headers, columns, missing values, names."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from corpus.scene import MPP, NUCLEI, case, points, points_twin, save, write_table, write_text


def picture(folder: Path, name: str = "a.png") -> None:
    save(folder / "images" / name)


def text_of(rows: list[list[object]], delimiter: str = ",", decimal: str = ".") -> str:
    def cell(value: object) -> str:
        return str(value).replace(".", decimal) if isinstance(value, float) else str(value)

    return "\n".join(delimiter.join(map(cell, row)) for row in rows) + "\n"


# ---- how the text is written


@case("delimiter", points_twin)
def tabs(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", points(), "\t")


@case("delimiter", points_twin)
def tabs_without_header(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", points(None), "\t")


@case("delimiter", points_twin)
def a_tsv_file(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.tsv", points(), "\t")


@case("delimiter", points_twin)
def semicolons(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", points(), ";")


@case("delimiter", points_twin)
def semicolons_and_decimal_commas(folder: Path) -> None:
    picture(folder)
    write_text(folder / "labels/a.csv", text_of(points(), ";", ","))


@case("delimiter", points_twin)
def semicolons_and_decimal_commas_without_header(folder: Path) -> None:
    picture(folder)
    write_text(folder / "labels/a.csv", text_of(points(None), ";", ","))


@case("delimiter", points_twin)
def excel_says_its_delimiter(folder: Path) -> None:
    picture(folder)
    write_text(folder / "labels/a.csv", "sep=;\n" + text_of(points(), ";", ","))


@case("delimiter", points_twin)
def tabs_and_decimal_commas(folder: Path) -> None:
    picture(folder)
    write_text(folder / "labels/a.csv", text_of(points(), "\t", ","))


@case("delimiter", None, "refused", "decimal|columns|values")
def decimal_commas_among_commas(folder: Path) -> None:
    picture(folder)
    write_text(folder / "labels/a.csv", text_of(points(), ",", ","))


@case("delimiter", None, "refused", "decimal|columns|values")
def decimal_commas_among_commas_without_header(folder: Path) -> None:
    picture(folder)
    write_text(folder / "labels/a.csv", text_of(points(None), ",", ","))


@case("delimiter", points_twin)
def quoted_decimal_commas(folder: Path) -> None:
    picture(folder)
    rows = [[f"{value}".replace(".", ",") if isinstance(value, float) else value for value in row] for row in points()]
    write_table(folder / "labels/a.csv", rows)


@case("delimiter", points_twin)
def blanks_between_columns(folder: Path) -> None:
    picture(folder)
    write_text(folder / "labels/a.csv", text_of(points(), ", "))


@case("delimiter", points_twin)
def every_cell_quoted(folder: Path) -> None:
    picture(folder)
    write_text(folder / "labels/a.csv", "".join(",".join(f'"{cell}"' for cell in row) + "\r\n" for row in points()))


@case("encoding", points_twin)
def utf_16(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", points(), "\t", "utf-16")


@case("encoding", points_twin)
def utf_16_without_a_mark(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", points(), encoding="utf-16-le")


@case("encoding", points_twin)
def utf_8_with_a_mark(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", points(), encoding="utf-8-sig")


@case("encoding", points_twin, "either")
def latin_1(folder: Path) -> None:
    picture(folder)
    rows = points(("x", "y", "class", "Größe"))
    write_text(folder / "labels/a.csv", text_of([row + [""] * (len(row) == 3) for row in rows]), "cp1252")


@case("encoding", None, "refused", "Excel")
def an_excel_file_called_csv(folder: Path) -> None:
    picture(folder)
    (folder / "labels").mkdir()
    (folder / "labels/a.csv").write_bytes(b"PK\x03\x04" + bytes(range(256)))


# ---- what the files are called


@case("names", points_twin)
def upper_case_suffix(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.CSV", points())


@case("names", points_twin)
def upper_case_suffix_of_the_picture(folder: Path) -> None:
    picture(folder, "a.PNG")
    write_table(folder / "labels/a.csv", points())


@case("names", points_twin)
def labels_called_after_the_picture_and_what_they_are(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a_labels.csv", points())


@case("names", points_twin)
def labels_called_after_the_whole_name_of_the_picture(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.png.csv", points())


def two(folder: Path) -> Path:
    for name in "ab":
        picture(folder, f"{name}.png")
        write_table(folder / f"labels/{name}.csv", points())
    return folder


@case("names", two)
def one_of_two_called_after_what_it_is(folder: Path) -> None:
    two(folder)
    (folder / "labels/b.csv").rename(folder / "labels/b_labels.csv")


@case("left out", points_twin, "read", "other")
def labels_without_their_picture(folder: Path) -> None:
    points_twin(folder)
    write_table(folder / "labels/other.csv", points())


@case("left out", points_twin, "read", "without|b.png")
def a_picture_without_labels(folder: Path) -> None:
    points_twin(folder)
    picture(folder, "b.png")


@case("left out", points_twin, "either", "case")
def labels_beside_a_slide(folder: Path) -> None:
    points_twin(folder)
    (folder / "images/case.svs").write_bytes(b"a slide")
    write_table(folder / "labels/case.csv", points())


@case("left out", points_twin, "read", "b.csv")
def labels_that_are_a_broken_link(folder: Path) -> None:
    points_twin(folder)
    picture(folder, "b.png")
    (folder / "labels/b.csv").symlink_to(folder / "nowhere.csv")


@case("left out", points_twin, "read", "more")
def labels_in_folders_further_down(folder: Path) -> None:
    points_twin(folder)
    save(folder / "labels/more/c.png")
    write_table(folder / "labels/more/c.csv", points())


def umlaut(folder: Path) -> Path:
    for name in ("Fälle", "b"):
        picture(folder, f"{name}.png")
        write_table(folder / f"labels/{name}.csv", points())
    return folder


@case("names", umlaut)
def composed_and_decomposed_names(folder: Path) -> None:
    umlaut(folder)
    path = folder / "labels" / "Fälle.csv"
    path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))


@case("names", points_twin, "either", "a.tif|2 images")
def two_pictures_of_one_name(folder: Path) -> None:
    points_twin(folder)
    save(folder / "images/a.tif", 255 - __import__("numpy").asarray(__import__("corpus.scene").scene.pixels()))


# ---- headers and columns


@case("header", points_twin, "either")
def numbers_as_header(folder: Path) -> None:
    """What pandas writes of a table whose columns have no names."""
    picture(folder)
    write_table(folder / "labels/a.csv", points((0, 1, 2)))  # type: ignore[arg-type]


@case("header", points_twin, "either")
def index_without_header(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [[i, *row] for i, row in enumerate(points(None))])


@case("header", None, "refused", "header|columns")
def index_and_points_alone_without_header(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [[i, *row[:2]] for i, row in enumerate(points(None))])


@case("header", points_twin, "either")
def class_first_without_header(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [[kind, x, y] for x, y, kind in points(None)])


@case("header", points_twin)
def index_with_an_unnamed_column(folder: Path) -> None:
    picture(folder)
    header, *rows = points()
    write_table(folder / "labels/a.csv", [["", *header], *([i, *row] for i, row in enumerate(rows))])


@case("header", None, "refused", "twice|columns")
def a_column_twice(folder: Path) -> None:
    picture(folder)
    header, *rows = points()
    write_table(folder / "labels/a.csv", [[*header, "x"], *([*row, 5] for row in rows)])


@case("header", points_twin, "either")
def rows_longer_than_the_header(folder: Path) -> None:
    picture(folder)
    header, *rows = points()
    write_table(folder / "labels/a.csv", [header, *([i, *row] for i, row in enumerate(rows))])


@case("columns", points_twin, "either", None)
def corners_and_sizes(folder: Path) -> None:
    picture(folder)
    rows = [[n.x - n.a, n.y - n.b, 2 * n.a, 2 * n.b, n.kind] for n in NUCLEI]
    write_table(folder / "labels/a.csv", [["x", "y", "w", "h", "class"], *rows])


@case("columns", points_twin, "either", None)
def corners_and_sizes_in_full(folder: Path) -> None:
    picture(folder)
    rows = [[n.x - n.a, n.y - n.b, 2 * n.a, 2 * n.b, n.kind] for n in NUCLEI]
    write_table(folder / "labels/a.csv", [["X", "Y", "Width", "Height", "Label"], *rows])


@case("columns", None, "refused", None)
def corners_and_sizes_without_header(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [[n.x - n.a, n.y - n.b, 2 * n.a, 2 * n.b, n.kind] for n in NUCLEI])


@case("columns", points_twin, "either", None)
def two_corners(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [["xmin", "ymin", "xmax", "ymax", "class"], *([*n.box, n.kind] for n in NUCLEI)])


@case("columns", points_twin, "either", None)
def two_corners_called_x1_and_x2(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [["x1", "y1", "x2", "y2", "class"], *([*n.box, n.kind] for n in NUCLEI)])


@case("columns", points_twin, "either", None)
def x_and_x2(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [["x", "y", "x2", "y2", "class"], *([*n.box, n.kind] for n in NUCLEI)])


@case("columns", points_twin, "either", None)
def imagej_results(folder: Path) -> None:
    """X and Y are in the picture's unit, Label is the picture."""
    picture(folder)
    rows = [[i, "a.png", 0, n.x * MPP, n.y * MPP] for i, n in enumerate(NUCLEI, 1)]
    write_table(folder / "labels/a.csv", [[" ", "Label", "Area", "X", "Y"], *rows])


@case("columns", points_twin)
def qupath_detections_in_micrometres(folder: Path) -> None:
    picture(folder)
    header = ["Image", "Object ID", "Object type", "Name", "Classification", "Parent", "Centroid X µm", "Centroid Y µm"]
    rows = [["a.png", f"id-{i}", "Cell", "", n.kind, "Root", n.x * MPP, n.y * MPP] for i, n in enumerate(NUCLEI)]
    write_table(folder / "labels/a.csv", [header, *rows])


@case("columns", points_twin)
def qupath_detections_in_pixels_with_tabs(folder: Path) -> None:
    picture(folder)
    header = ["Image", "Name", "Class", "Parent", "ROI", "Centroid X px", "Centroid Y px"]
    rows = [["a.png", n.kind, n.kind, "Image", "Polygon", n.x, n.y] for n in NUCLEI]
    write_table(folder / "labels/a.tsv", [header, *rows], "\t")


@case("columns", None, "refused", "image")
def detections_of_several_pictures_in_one_table(folder: Path) -> None:
    picture(folder)
    header = ["Image", "Classification", "Centroid X px", "Centroid Y px"]
    rows = [[f"{'ab'[i % 2]}.png", n.kind, n.x, n.y] for i, n in enumerate(NUCLEI)]
    write_table(folder / "labels/a.csv", [header, *rows])


@case("columns", points_twin, "either", None)
def cellprofiler_objects(folder: Path) -> None:
    """Places count from the centre of the first pixel."""
    picture(folder)
    header = ["ImageNumber", "ObjectNumber", "Classify_Class", "Location_Center_X", "Location_Center_Y"]
    rows = [[1, i, n.kind, n.x - 0.5, n.y - 0.5] for i, n in enumerate(NUCLEI, 1)]
    write_table(folder / "labels/a.csv", [header, *rows])


@case("columns", points_twin, "either", None)
def regionprops_of_scikit_image(folder: Path) -> None:
    """``label`` counts the nuclei, and rows come first."""
    picture(folder)
    header = ["label", "centroid-0", "centroid-1", "type"]
    rows = [[i, n.y - 0.5, n.x - 0.5, n.kind] for i, n in enumerate(NUCLEI, 1)]
    write_table(folder / "labels/a.csv", [header, *rows])


@case("columns", points_twin, "either", None)
def a_label_that_counts_beside_a_type(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [["label", "x", "y", "type"], *([i, n.x, n.y, n.kind] for i, n in enumerate(NUCLEI))])


@case("columns", points_twin, "either", None)
def names_that_differ_for_every_cell(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [["x", "y", "name"], *([n.x, n.y, f"cell {i}"] for i, n in enumerate(NUCLEI))])


@case("unit", points_twin, "either", None)
def columns_that_say_micrometres(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [["x_um", "y_um", "class"], *([n.x * MPP, n.y * MPP, n.kind] for n in NUCLEI)])


@case("unit", points_twin, "either", None)
def micrometres_without_a_word(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [["x", "y", "class"], *([n.x * MPP, n.y * MPP, n.kind] for n in NUCLEI)])


@case("unit", None, "refused", None)
def shares_of_the_picture(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [["x", "y", "class"], *([n.x / 240, n.y / 160, n.kind] for n in NUCLEI)])


def left_part(folder: Path) -> Path:
    picture(folder)
    near = [n for n in NUCLEI if n.x < 155]
    write_table(folder / "labels/a.csv", [["x", "y", "class"], *([n.x, n.y, n.kind] for n in near)])
    return folder


@case("unit", left_part, "either", "exchanged")
def rows_taken_for_columns(folder: Path) -> None:
    picture(folder)
    near = [n for n in NUCLEI if n.x < 155]
    write_table(folder / "labels/a.csv", [["x", "y", "class"], *([n.y, n.x, n.kind] for n in near)])


# ---- missing values, repetitions


def unknown(folder: Path) -> Path:
    picture(folder)
    write_table(folder / "labels/a.csv", _with_gaps(""))
    return folder


def _with_gaps(text: str) -> list[list[object]]:
    header, *rows = points()
    return [header, *([x, y, text if i % 4 == 0 else kind] for i, (x, y, kind) in enumerate(rows))]


def _gaps(name: str, text: str) -> None:
    def make(folder: Path) -> None:
        picture(folder)
        write_table(folder / "labels/a.csv", _with_gaps(text))

    make.__name__ = f"gaps_written_{name}"
    case("missing", unknown)(make)


for name, text in {"NA": "NA", "nan": "nan", "None": "None", "null": "null", "NaN": "NaN", "hash": "#N/A"}.items():
    _gaps(name, text)


@case("missing", None, "refused", "row")
def a_place_that_is_missing(folder: Path) -> None:
    picture(folder)
    rows = points()
    rows[5][0] = "NA"
    write_table(folder / "labels/a.csv", rows)


@case("missing", points_twin, "read", "immune")
def one_type_in_two_spellings(folder: Path) -> None:
    picture(folder)
    rows = points()
    for row in rows[1::4]:
        row[2] = str(row[2]).capitalize()
    write_table(folder / "labels/a.csv", rows)


@case("twice", points_twin, "read", "twice")
def every_row_twice(folder: Path) -> None:
    picture(folder)
    header, *rows = points()
    write_table(folder / "labels/a.csv", [header, *rows, *rows])


@case("twice", None, "either", "twice|two")
def every_row_twice_with_two_types(folder: Path) -> None:
    picture(folder)
    header, *rows = points()
    write_table(folder / "labels/a.csv", [header, *rows, *([x, y, "other"] for x, y, _ in rows)])
