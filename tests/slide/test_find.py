"""Which slides files, folders and lists stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from celldetr.errors import DataWarning, InputError
from celldetr.slide.find import Slide, find_slides, is_cohort


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = [
        "a.svs", "B.NDPI", "c.czi", "thumbnail.png", ".hidden.svs", "notes.doc",
        "mirax/m.mrxs", "mirax/m/Data0000.dat", "mirax/m/odd.tif",
        "dicom/1.dcm", "dicom/2.dcm",
        "images/x.png", "images/y.jpeg",
        "old/run.json", "old/overview.png",
        "out/z.svs", ".cache/c.svs",
    ]  # fmt: skip
    for name in names:
        path = tmp_path / "slides" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "slides"


def test_a_folder(folder: Path) -> None:
    found = [str(slide.path.relative_to(folder)) for slide in find_slides([folder], folder / "out")]
    assert found == ["B.NDPI", "a.svs", "c.czi", "dicom/1.dcm", "images/x.png", "images/y.jpeg", "mirax/m.mrxs"]


def test_nothing_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no slide in this folder"):
        find_slides([tmp_path])


def test_lists(folder: Path) -> None:
    (folder / "list.txt").write_text("# ours\na.svs\n\n  B.NDPI \n")
    assert [slide.path.name for slide in find_slides([folder / "list.txt"])] == ["a.svs", "B.NDPI"]
    table = folder / "list.csv"
    table.write_text("\ufeffcase, Slide , MPP\n1,a.svs,0.25\n2,B.NDPI,\n3,,0.5\n")
    with pytest.warns(DataWarning, match=r"1 rows that name no slide \(line 4\)"):
        found = find_slides([table])
    assert found == [Slide(folder / "a.svs", 0.25), Slide(folder / "B.NDPI")]
    table.write_text("case,mpp\n1,0.25\n")
    with pytest.raises(InputError, match="no column 'slide'"):
        find_slides([table])
    table.write_text("slide,mpp\na.svs,fine\n")
    with pytest.raises(InputError, match=r"list.csv, line 2: mpp 'fine' is not a number"):
        find_slides([table])
    with pytest.raises(InputError, match="no such file"):
        find_slides([folder / "absent.csv"])


def test_slides_that_are_not_whole_are_named(folder: Path) -> None:
    for name in ("g.svs.part", "h.ndpi.GZ", "i.geojson.gz"):
        (folder / name).touch()
    with pytest.warns(DataWarning, match=r"2 slides that are packed or not whole \(g\.svs\.part, h\.ndpi\.GZ\)"):
        find_slides([folder], folder / "out")


def test_slides_beside_tables_of_cells_are_named(tmp_path: Path) -> None:
    for name in ("bundle/cells.parquet", "bundle/he.ome.tif", "done/run.json", "done/overview.png", "a.svs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.warns(DataWarning, match=r"bundle: left out: 1 slides in a folder of results.*he\.ome\.tif") as said:
        assert [slide.name for slide in find_slides([tmp_path])] == ["a"]
    assert len(said) == 1


def test_scales_of_lists_are_not_passed_over(folder: Path) -> None:
    table = folder / "list.csv"
    table.write_text("slide,um per px\na.svs,0.25\n")
    with pytest.warns(DataWarning, match="not called mpp"):
        find_slides([table])
    table.write_text("slide,mpp\na.svs,0.25\na.svs,0.5\n")
    with pytest.raises(InputError, match=r"a\.svs: is named with mpp 0\.25 and with 0\.5"):
        find_slides([table])


def test_each_once_and_none_in_anothers_place(folder: Path) -> None:
    assert len(find_slides([folder / "a.svs", folder / "a.svs"])) == 1
    twin = folder / "old" / "a.tif"
    with pytest.raises(InputError, match="both write to OUT/a"):
        find_slides([folder / "a.svs", twin])


def test_what_is_summed_up(folder: Path) -> None:
    assert not is_cohort([folder / "a.svs"])
    assert is_cohort([folder])
    assert is_cohort([folder / "list.csv"])
    assert is_cohort([folder / "a.svs", folder / "B.NDPI"])


def test_links_to_folders_are_followed_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.svs").touch()
    (folder / "case").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to(folder, target_is_directory=True)
    found = [slide.path.name for slide in find_slides([folder], folder / "out")]
    assert sorted(found) == ["1.dcm", "B.NDPI", "a.svs", "c.czi", "far.svs", "m.mrxs", "x.png", "y.jpeg"]


def test_two_dicom_series_in_a_folder_are_two_slides(tmp_path: Path) -> None:
    for name, series, explicit in (("a1", "1.2.3", True), ("a2", "1.2.3", False), ("b1", "1.2.4", True)):
        value = series.encode() + b"\0" * (len(series) % 2)
        length = b"UI" + len(value).to_bytes(2, "little") if explicit else len(value).to_bytes(4, "little")
        head = b"\0" * 128 + b"DICM" + b"\x20\x00\x0d\x00UI\x04\x009.9\0" + b"\x20\x00\x0e\x00"
        (tmp_path / f"{name}.dcm").write_bytes(head + length + value + b"\0" * 100)
    assert [slide.name for slide in find_slides([tmp_path])] == ["a1", "b1"]


def test_lists_of_other_systems(folder: Path) -> None:
    (folder / "list.txt").write_bytes('"a.svs"\r\nmirax\\m.mrxs\r\n'.encode("utf-16"))
    expected = [folder / "a.svs", folder / "mirax" / "m.mrxs"]
    assert [slide.path for slide in find_slides([folder / "list.txt"])] == expected
    (folder / "list.csv").write_text("slide;mpp\na.svs;0,25\nmirax\\m.mrxs;\n")
    assert find_slides([folder / "list.csv"]) == [Slide(expected[0], 0.25), Slide(expected[1])]


def test_what_a_folder_has_and_is_not_run_is_said(folder: Path) -> None:
    (folder / "d.svs").symlink_to(folder / "nowhere.svs")
    for name in ("e.vsi", "f.KFB", "g.dzi", "g_files/9/0_0.jpeg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    with pytest.warns(DataWarning) as said:
        found = [slide.path.name for slide in find_slides([folder], folder / "out")]
    (text,) = [str(each.message) for each in said]
    assert "1 links to nothing (d.svs)" in text
    assert "1 files .vsi, which must be converted to OME-TIFF (bfconvert of Bio-Formats) (e.vsi)" in text
    assert "1 files .kfb, which only the software of its scanner reads" in text
    assert "0_0.jpeg" not in found
    assert "1 pictures beside slides (thumbnail.png)" in text
