"""Headers, columns, units, missing values and repetitions in tables."""

from __future__ import annotations

from pathlib import Path

from corpus.scene import MPP, NUCLEI, case, points, points_twin, write_table
from corpus.tables import picture


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


@case("header", None, "refused", "no classes")
def a_third_column_of_whole_numbers_that_differ_without_header(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [[n.x, n.y, round(9 * n.a * n.b)] for n in NUCLEI])


@case("header", None, "read", "read as classes: 1 third columns of numbers")
def planes_without_header(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [[n.x, n.y, i % 3] for i, n in enumerate(NUCLEI)])


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
    write_table(
        folder / "labels/a.csv", [["xmin", "ymin", "xmax", "ymax", "class"], *([*n.box, n.kind] for n in NUCLEI)]
    )


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


@case("columns", None, "refused", "ImageJ")
def imagej_results_without_numbers_of_rows(folder: Path) -> None:
    picture(folder)
    rows = [[40, 99, 3, 200, n.x * MPP, n.y * MPP] for n in NUCLEI]
    write_table(folder / "labels/a.csv", [["Area", "Mean", "Min", "Max", "X", "Y"], *rows])


@case("columns", None, "refused", "statistics")
def imagej_results_with_their_summary(folder: Path) -> None:
    picture(folder)
    rows = [["Mean", 120, 80], ["SD", 60, 40], ["Min", 12, 12], ["Max", 228, 148]]
    write_table(folder / "labels/a.csv", [["Label", "X", "Y"], *(["a.png", n.x, n.y] for n in NUCLEI), *rows])


@case("columns", None, "refused", "beside other objects .annotation")
def qupath_annotations_among_cells(folder: Path) -> None:
    picture(folder)
    rows = [["Annotation", "", 120, 80], *(["Cell", n.kind, n.x, n.y] for n in NUCLEI)]
    write_table(folder / "labels/a.csv", [["Object type", "Classification", "Centroid X px", "Centroid Y px"], *rows])


@case("columns", None, "refused", "2 images")
def cells_of_two_slides_in_one_table(folder: Path) -> None:
    picture(folder)
    rows = [["ab"[i % 2], n.x, n.y, n.kind] for i, n in enumerate(NUCLEI)]
    write_table(folder / "labels/a.csv", [["Slide ID", "x", "y", "class"], *rows])


@case("left out", None, "either", "3 tiles")
def places_in_tiles(folder: Path) -> None:
    picture(folder)
    rows = [[int(n.x // 80), n.x % 80, n.y, n.kind] for n in NUCLEI]
    write_table(folder / "labels/a.csv", [["tile", "x", "y", "class"], *rows])


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
    write_table(
        folder / "labels/a.csv", [["label", "x", "y", "type"], *([i, n.x, n.y, n.kind] for i, n in enumerate(NUCLEI))]
    )


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


@case("unit", None, "refused", "unit is 'um'")
def a_column_that_says_the_unit(folder: Path) -> None:
    """As Imaris writes."""
    picture(folder)
    rows = [[n.x * MPP, n.y * MPP, "um", n.kind] for n in NUCLEI]
    write_table(folder / "labels/a.csv", [["Position X", "Position Y", "Unit", "class"], *rows])


@case("unit", None, "refused", "Xenium")
def cells_of_xenium(folder: Path) -> None:
    picture(folder)
    rows = [[n.x * MPP, n.y * MPP, 40, n.kind] for n in NUCLEI]
    write_table(folder / "labels/a.csv", [["x_centroid", "y_centroid", "transcript_counts", "class"], *rows])


@case("unit", None, "read", "darker places if they were micrometres")
def few_nuclei_in_micrometres(folder: Path) -> None:
    picture(folder)
    write_table(folder / "labels/a.csv", [["x", "y", "class"], *([n.x * MPP, n.y * MPP, "a"] for n in NUCLEI[:4])])


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


def numbered(folder: Path) -> Path:
    picture(folder)
    write_table(folder / "labels/a.csv", points(immune="1", tumour="2"))
    return folder


@case("columns", numbered)
def numbers_of_classes_as_label(folder: Path) -> None:
    """Numbers that repeat are classes."""
    picture(folder)
    write_table(folder / "labels/a.csv", points(("x", "y", "label"), immune="1", tumour="2"))


@case("columns", numbered)
def whole_numbers_as_decimals(folder: Path) -> None:
    """What pandas makes of a column of numbers with gaps."""
    picture(folder)
    write_table(folder / "labels/a.csv", points(("x", "y", "label"), immune="1.0", tumour="2.0"))
