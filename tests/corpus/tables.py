"""CSV and its relatives: delimiters, decimal signs, encodings, headers, columns, missing values, names."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from corpus.scene import case, pixels, points, points_twin, save, write_table, write_text


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
    save(folder / "images/a.tif", 255 - pixels())


@case("names", points_twin)
def folders_in_upper_case(folder: Path) -> None:
    save(folder / "Images/a.png")
    write_table(folder / "Labels/a.csv", points())


@case("left out", points_twin, "read", "a.csv")
def labels_beside_a_folder_of_labels(folder: Path) -> None:
    points_twin(folder)
    write_table(folder / "a.csv", points()[:9])


@case("left out", None, "refused", "p1/labels, p2/labels")
def a_folder_for_each_patient(folder: Path) -> None:
    for name in ("p1", "p2"):
        points_twin(folder / name)


@case("left out", points_twin, "read", r"files \.vsi, which .*b\.vsi.*bfconvert|bfconvert.*b\.vsi")
def a_picture_that_cannot_be_read(folder: Path) -> None:
    points_twin(folder)
    (folder / "images/b.vsi").write_bytes(b"II*\0")


@case("left out", points_twin, "read", r"\.xml .*b\.xml")
def labels_of_another_program_beside(folder: Path) -> None:
    points_twin(folder)
    write_text(folder / "labels/b.xml", "<annotation/>")


def with_an_empty_one(folder: Path) -> Path:
    points_twin(folder)
    picture(folder, "b.png")
    write_table(folder / "labels/b.csv", [["x", "y", "class"]])
    return folder


@case("left out", with_an_empty_one, "read", "without nuclei: 1 tables without a row .b.csv")
def a_table_without_a_row(folder: Path) -> None:
    with_an_empty_one(folder)
