"""The cell table in the formats of other programs, a module and a line in ``FORMATS`` each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from celldetr.cells.clusters import CLUSTERS
from celldetr.cells.export.anndata import write_anndata
from celldetr.cells.export.csv import write_csv
from celldetr.cells.export.geojson import write_geojson
from celldetr.cells.export.spatialdata import write_spatialdata
from celldetr.cells.reader import CellTable, open_table
from celldetr.cells.schema import CELLS
from celldetr.errors import InputError, doubt, install, near
from celldetr.io.files import ZARR_FILE, output_errors, read_json, replacing, replacing_folder, write_json
from celldetr.io.lock import RunLock


@dataclass(frozen=True)
class Exporter:
    """One format."""

    name: str  # what the user calls it
    # endings its files may have; the first is the default, and programs recognise files by them
    suffixes: tuple[str, ...]
    write: Callable[..., None]  # ``write(table, out, **options)``
    folder: bool = False  # whether it is a folder of files, a Zarr store, instead of one file
    needs: str = ""  # extra of the package, and module in it, without which it cannot be written

    def check(self) -> None:
        """Raise InputError if what the format needs is not installed."""
        if self.needs and find_spec(self.needs) is None:
            raise InputError(f"format {self.name} needs {self.needs}, which is not installed: {install(self.needs)}")

    @property
    def file_name(self) -> str:
        """Name of an export in a run's directory."""
        return f"cells{self.suffixes[0]}"

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that ``write`` takes."""
        parameters = inspect.signature(self.write).parameters.values()
        return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


FORMATS: dict[str, Exporter] = {
    exporter.name: exporter
    for exporter in (
        Exporter("geojson", (".geojson.gz", ".geojson", ".json.gz", ".json"), write_geojson),
        Exporter("anndata", (".h5ad",), write_anndata),
        Exporter("csv", (".csv", ".csv.gz"), write_csv),
        Exporter("spatialdata", (".zarr",), write_spatialdata, folder=True, needs="spatialdata"),
    )
}

# Names that people know the same formats by.
_ALIASES = {"h5ad": "anndata", "qupath": "geojson", "zarr": "spatialdata"}
OPTIONS_FILE = "cells.exports.json"  # name of an export in a run's directory -> the options that it was made with
IMAGE, IMAGE_MPP = "image", "image_mpp"  # options of SpatialData
MODEL_FORMAT = "onnx"  # of networks, not of cells: celldetr.model.onnx


def find_format(name: str, others: Sequence[str] = ()) -> Exporter:
    """The exporter called ``name``; ``others`` are names that the caller accepts besides, for the message.

    Raises:
        InputError: no such format; the near names are given.
    """
    key = name.lower().lstrip(".")
    exporter = FORMATS.get(_ALIASES.get(key, key))
    if key == MODEL_FORMAT:
        raise InputError("format 'onnx' is for models, not for cells; celldetr export writes a model")
    if exporter is None:
        raise InputError(f"format {name!r} is unknown; {near(key, [*FORMATS, *others])}")
    return exporter


def check_formats(names: Sequence[str]) -> None:
    """Raise InputError for formats that are unknown, or whose libraries are not installed."""
    for name in names:
        find_format(name).check()


def check_free(directory: Path, formats: Sequence[str]) -> None:
    """Raise InputError if exports into a run's directory would replace one that is there."""
    for name in formats:
        _target(find_format(name), directory, None, overwrite=False)


def is_current(directory: Path, format: str) -> bool:
    """Whether a run's directory has an export that was made after its cells and their clusters."""
    target = directory / find_format(format).file_name
    made_from = [path for path in (directory / CELLS, directory / CLUSTERS) if path.is_file()]
    return target.exists() and all(path.stat().st_mtime_ns <= target.stat().st_mtime_ns for path in made_from)


def _target(exporter: Exporter, directory: Path, out: Path | None, overwrite: bool) -> Path:
    """Where to write, once nothing speaks against it."""
    target = directory / exporter.file_name if out is None else out
    if target.is_dir() and not (exporter.folder and (target / ZARR_FILE).is_file()):
        raise InputError(f"{target}: is a directory; give the name of a file, e.g. {exporter.file_name}")
    if not target.name.lower().endswith(exporter.suffixes):
        accepted = " or ".join(exporter.suffixes)
        raise InputError(f"{target}: a {exporter.name} file must end in {accepted}, programs recognise it by that")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists already; choose another name or overwrite it (`overwrite=True`)")
    return target


def export_cells(
    source: str | Path, format: str, out: str | Path | None = None, *, overwrite: bool = False, **options: Any
) -> Path:
    """Write the cells of a slide in another format; returns the path, which appears whole or not at all.

    Args:
        source: the run directory of a slide or its ``cells.parquet``.
        format: a name in ``FORMATS``.
        out: the file; default ``cells`` and the format's suffix, beside the table. Missing folders are made.
        overwrite: replace an existing file.
        options: of the format: ``shape="outline"|"box"|"ellipse"``, ``origin="bounds"|"slide"|(x, y)`` and
            ``classify="type"|"model"|"cluster"`` of geojson, ``embeddings=True`` of csv, ``image=SLIDE`` (from
            ``celldetr.slide.reader.open_slide``) and ``image_mpp=1.0`` of spatialdata.

    Raises:
        InputError: unknown format or option, a library that is not installed, no table, a target that exists or has
            another format's suffix, or a disk that cannot be written to.

    Examples:
        >>> import celldetr
        >>> options = celldetr.PredictOptions(region=(950, 900, 200, 200))
        >>> run = celldetr.predict_slide(celldetr.sample_slide(), "out", model="small-20x", options=options).directory
        >>> celldetr.export_cells(run, "geojson").name
        'cells.geojson.gz'
    """
    exporter, table, target = _prepare(source, format, out, overwrite, options)
    with RunLock(target.parent) if target.parent.samefile(table.path.parent) else nullcontext():
        _write(exporter, table, target, options)
    return target


def write_format(directory: Path, format: str, *, overwrite: bool) -> Path:
    """``export_cells`` into a run's directory that the caller holds (``RunLock``), as it was made the last time."""
    options = (read_json(directory / OPTIONS_FILE) or {}).get(find_format(format).file_name, {})
    if options.pop(IMAGE, None):
        doubt(
            f"{directory / find_format(format).file_name}: is written again without the slide's image; export it anew"
        )
        options.pop(IMAGE_MPP, None)
    exporter, table, target = _prepare(directory, format, None, overwrite, options)
    _write(exporter, table, target, options)
    return target


def _prepare(
    source: str | Path, format: str, out: str | Path | None, overwrite: bool, options: dict[str, Any]
) -> tuple[Exporter, CellTable, Path]:
    """Check all that can be, and make the folder."""
    exporter = find_format(format)
    exporter.check()
    for option in options:
        if option not in exporter.options:
            hint = near(option, exporter.options) if exporter.options else "it takes none"
            raise InputError(f"format {exporter.name} has no option {option!r}; {hint}")
    table = open_table(source)
    target = _target(exporter, table.path.parent, None if out is None else Path(out), overwrite)
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    return exporter, table, target


def _write(exporter: Exporter, table: CellTable, target: Path, options: dict[str, Any]) -> None:
    with (replacing_folder if exporter.folder else replacing)(target) as temporary:
        exporter.write(table, temporary, **options)
    directory = table.path.parent
    if target.name == exporter.file_name and target.parent.samefile(directory):
        known = read_json(directory / OPTIONS_FILE) or {}
        options = options | ({IMAGE: options[IMAGE].file or True} if options.get(IMAGE) else {})
        if known.get(target.name, {}) != options:  # it may be written again, when there are clusters: in the same way
            write_json(directory / OPTIONS_FILE, known | {target.name: options})
