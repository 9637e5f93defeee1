"""The registry: names, options and targets, and that nothing half-written stays."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from celldetr.cells.export import FORMATS, Exporter, check_formats, export_cells, find_format, write_format
from celldetr.cells.reader import CellTable
from celldetr.errors import InputError


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_default_name_lies_beside_the_table(run: Path, name: str) -> None:
    out = export_cells(run / "cells.parquet", name)
    assert out == run / ("cells" + FORMATS[name].suffixes[0])
    assert out.stat().st_size > 0
    assert names(run) == sorted(["cells.parquet", "run.json", out.name])


def test_other_names_of_a_format() -> None:
    assert find_format("H5AD") is FORMATS["anndata"]
    assert find_format("qupath") is FORMATS["geojson"]


@pytest.mark.parametrize(("wrong", "hint"), [("geojsn", "'geojson'"), ("xlsx", "'anndata', 'csv', 'geojson'")])
def test_an_unknown_format_names_the_near_ones(run: Path, wrong: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        export_cells(run, wrong)


def test_an_unknown_option_names_the_near_ones(run: Path) -> None:
    with pytest.raises(InputError, match=r"no option 'embedding'; did you mean 'embeddings'\?"):
        export_cells(run, "csv", embedding=True)
    with pytest.raises(InputError, match="it takes none"):
        export_cells(run, "anndata", shape="box")


def test_an_export_is_written_again_as_it_was(run: Path) -> None:
    before = export_cells(run, "csv", embeddings=True).read_text()
    assert write_format(run, "csv", overwrite=True).read_text() == before
    plain = export_cells(run, "csv", overwrite=True).read_text()
    assert len(plain) < len(before)
    assert write_format(run, "csv", overwrite=True).read_text() == plain
    elsewhere = run.parent / "elsewhere"
    export_cells(run, "csv", elsewhere / "cells.csv", embeddings=True)
    assert write_format(run, "csv", overwrite=True).read_text() == plain


def test_what_is_missing_is_told_before_there_are_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    check_formats(["spatialdata", "csv"])
    monkeypatch.setattr("celldetr.cells.export.find_spec", lambda name: None)
    check_formats(["csv"])
    with pytest.raises(
        InputError, match=r"needs spatialdata, which is not installed: .* -m pip install .*\[spatialdata\]'"
    ):
        check_formats(["csv", "zarr"])


def test_an_existing_target_is_kept_unless_overwritten(run: Path) -> None:
    target = run / "cells.csv"
    target.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export_cells(run, "csv")
    assert target.read_text() == "mine"
    export_cells(run, "csv", overwrite=True)
    assert target.read_text().startswith("cell_id,")


def test_a_target_of_another_format_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"must end in \.h5ad"):
        export_cells(run, "anndata", run / "cells.csv")
    with pytest.raises(InputError, match="is a directory"):
        export_cells(run, "csv", run)


def test_folders_are_made_and_files_are_readable_by_others(run: Path) -> None:
    out = export_cells(run, "csv", run / "a" / "b" / "c.csv")
    reference = run / "reference"
    reference.touch()
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(reference.stat().st_mode)


def test_a_full_disk_leaves_nothing_and_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(table: CellTable, out: Path) -> None:
        out.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(FORMATS, "full", Exporter("full", (".full",), fill))
    with pytest.raises(InputError, match=r"cells\.full: the disk is full"):
        export_cells(run, "full")
    assert names(run) == ["cells.parquet", "run.json"]


def test_a_folder_that_cannot_be_written_leaves_the_old_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(table: CellTable, out: Path) -> None:
        out.mkdir()
        (out / "zarr.json").write_text("new")
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(FORMATS, "store", Exporter("store", (".zarr",), write, folder=True))
    full = False
    out = export_cells(run, "store")
    (out / "zarr.json").write_text("old")
    full = True
    with pytest.raises(InputError, match=r"cells\.zarr: the disk is full"):
        export_cells(run, "store", overwrite=True)
    assert (out / "zarr.json").read_text() == "old"
    assert names(run) == ["cells.parquet", "cells.zarr", "run.json"]
