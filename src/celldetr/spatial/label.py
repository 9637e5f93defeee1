"""The steps on disk: each reads what the steps before have left in ``SET/steps``, and leaves its own tables there.

A step that is finished and unchanged is kept (``record``), so a run that was interrupted, or repeated with another
setting, does what is new and no more. One run at a time works on a set.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from celldetr.config import Config
from celldetr.errors import InputError, near
from celldetr.io.files import output_errors
from celldetr.io.lock import LOCK, RunLock
from celldetr.io.run_folder import check_modes
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.options import PredictOptions
from celldetr.slide.provenance import package_version
from celldetr.slide.reader import open_slide
from celldetr.spatial import affine as affines
from celldetr.spatial.align import AlignOptions, read_alignment, refine
from celldetr.spatial.coordinates import pixel_scale
from celldetr.spatial.evidence import require_same_section
from celldetr.spatial.nuclei import check_nuclei, keep_nuclei, nuclei_from_cells, nuclei_from_model, read_nuclei
from celldetr.spatial.nuclei_files import nuclei_from_file
from celldetr.spatial.pair import PairOptions, keep_pairs, pair, read_pairs
from celldetr.spatial.pair import summary as pairs_summary
from celldetr.spatial.patches import WriteOptions
from celldetr.spatial.quality import QualityOptions, check_cells, passed_cells
from celldetr.spatial.quality import summary as quality_summary
from celldetr.spatial.readers import Kind, read_section
from celldetr.spatial.readers.common import ReadOptions
from celldetr.spatial.record import RECORD_FILE, STEPS_FOLDER, Record, open_record, stamp
from celldetr.spatial.residuals import misfit_warnings, residual_map
from celldetr.spatial.section import Nuclei, Section
from celldetr.spatial.section_io import SECTION, read_kept, write_section
from celldetr.spatial.tables import read_table, write_table
from celldetr.spatial.write import write_set

if TYPE_CHECKING:
    from celldetr.api import Model

QUALITY_FILE, TYPES_FILE = "quality.parquet", "types.parquet"
NUCLEI_FILE, PAIRS_FILE, ALIGNMENT_FILE = "nuclei.parquet", "pairs.parquet", "alignment.json"
PREDICTED = "predicted-"  # begins the name of the folder of what a model found on the H&E image
Told = Callable[[float], None]


@contextmanager
def begin(folder: Path, *, overwrite: bool = False, resume: bool = False) -> Iterator[Record]:
    """The record of a set to begin with, or to go on with.

    Args:
        folder: of the set; made if needed.
        overwrite: do every step again, whatever is there.
        resume: keep what is finished and unchanged.

    Raises:
        InputError: there is a set and neither was asked for, both were, or the folder holds other things; another run
            works on it.
    """
    check_modes(resume, overwrite)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder for the set")
    begun = (folder / RECORD_FILE).is_file()
    if begun and not (overwrite or resume):
        raise InputError(
            f"{folder}: holds a set; pass `resume=True` to continue it, or `overwrite=True` to begin again"
        )
    if not begun and folder.is_dir() and not all(map(_of_a_start, folder.iterdir())):
        raise InputError(f"{folder}: holds other files, which are not touched; name another folder for the set")
    with working_on(folder) as record:
        if overwrite:
            record.forget()
        yield record


def _of_a_start(path: Path) -> bool:
    """Whether a run that failed in its first step leaves this: the lock, or the folder of the steps, still empty."""
    return path.name == LOCK or (path.name == STEPS_FOLDER and path.is_dir() and not any(path.iterdir()))


@contextmanager
def working_on(folder: Path) -> Iterator[Record]:
    """The record of a set, which nobody else works on meanwhile.

    Raises:
        InputError: another run works on it, or it cannot be made.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        yield open_record(folder)


def read_step(
    record: Record,
    bundle: Path,
    *,
    kind: str = "auto",
    name: str = "",
    options: ReadOptions | None = None,
    keep: bool = True,
    progress: Told | None = None,
) -> bool:
    """Step 1. ``bundle``, ``kind``, ``name`` and ``options`` as ``read_section`` takes them; returns whether it ran."""
    options = options or ReadOptions()
    settings = {"bundle": stamp(bundle), "kind": kind, "name": name, "options": plain(options)}

    def work() -> dict[str, Any]:
        section = read_section(bundle, kind=one_of(kind, Kind, "kind"), name=name, options=options, progress=progress)
        write_section(section, record.files)
        counts = np.asarray(section.cells.X.sum(axis=1)).ravel()
        return {
            "name": section.name,
            "cells": section.cells.n_obs,
            "genes": section.cells.n_vars,
            "median_counts": float(np.median(counts)) if len(counts) else 0.0,
            "polygons": [kind for kind in ("nuclei", "outlines") if getattr(section, kind) is not None],
            "source": section.source,
        }

    return record.run("read", settings, (record.files / SECTION,), work, keep=keep)


def qc_step(
    record: Record, options: QualityOptions | None = None, *, keep: bool = True, progress: Told | None = None
) -> bool:
    """Step 2: which cells go on. It takes a second, and tells no progress."""
    options = options or QualityOptions()
    path = record.files / QUALITY_FILE

    def work() -> dict[str, Any]:
        section = read_kept(record.files)
        quality = check_cells(section, options)
        passed_cells(section, quality)  # that none is left is said now
        write_table(quality, path)
        return quality_summary(quality)

    return record.run("qc", {"options": plain(options)}, (path,), work, keep=keep)


def nuclei_step(
    record: Record,
    image: Path,
    *,
    model: Model | str | Path | None = None,
    polygons: Path | None = None,
    cells: Path | None = None,
    mpp: float | None = None,
    device: str = "auto",
    keep: bool = True,
    progress: Told | None = None,
) -> bool:
    """Step 4: the nuclei of the H&E image.

    Args:
        record: of the set.
        image: the H&E image, which later steps look at as well.
        model: what finds them; None: the default model.
        polygons: a file of nuclei instead: QuPath's GeoJSON, or what CellViT writes.
        cells: ``cells.parquet`` of ``celldetr predict`` instead.
        mpp: micrometres per level-0 pixel of the image, instead of what the file says.
        device: where a model that is not loaded yet runs.
        keep, progress: as everywhere.
    """
    if polygons is not None and cells is not None:
        raise InputError(f"nuclei from {polygons} and from {cells}: name one of them")
    source: dict[str, Any] = {"polygons": stamp(polygons), "cells": stamp(cells)}
    if polygons is None and cells is None:
        source |= {"model": _model_name(model)}
    settings = {"image": stamp(image), "mpp": mpp, **source}
    path = record.files / NUCLEI_FILE

    def work() -> dict[str, Any]:
        with open_slide(image, mpp) as reader:
            size, resolution = (reader.width, reader.height), (reader.mpp_x, reader.mpp_y)
            corner = reader.bounds[:2] if reader.bounds else (0.0, 0.0)
        if polygons is not None:
            nuclei = nuclei_from_file(polygons, resolution, corner)
        elif cells is not None:
            nuclei = nuclei_from_cells(cells)
        else:
            nuclei = _found(record, image, model, mpp, device, progress)
        check_nuclei(nuclei, *size, resolution)
        keep_nuclei(nuclei, path)
        return {
            "image": image.name,
            "size": list(size),
            "mpp": list(resolution),
            "nuclei": len(nuclei),
            "polygons": nuclei.polygons is not None,
            "median_side_um": _median_side(nuclei, resolution),
            "source": nuclei.source,
        }

    return record.run("nuclei", settings, (path,), work, keep=keep)


def align_step(
    record: Record,
    alignment: Path | None = None,
    *,
    direction: str = "image_to_xenium",
    inverse: bool = False,
    options: AlignOptions | None = None,
    pairing: PairOptions | None = None,
    keep: bool = True,
    progress: Told | None = None,
) -> bool:
    """Step 5: from the section to the image, then which cell is which nucleus.

    Args:
        record: of the set.
        alignment: file of the affine (``affines.read_affine``); None: what the section itself says.
        direction, inverse: how to read it (``affines.to_image``).
        options: of the refinement.
        pairing: of the pairs.
        keep, progress: as everywhere.
    """
    options, pairing = options or AlignOptions(), pairing or PairOptions()
    way: affines.Direction = one_of(direction, affines.Direction, "direction")
    settings = {
        "alignment": stamp(alignment),
        "direction": direction,
        "inverse": inverse,
        "options": plain(options),
        "pairing": plain(pairing),
    }
    outputs = (record.files / ALIGNMENT_FILE, record.files / PAIRS_FILE)

    def work() -> dict[str, Any]:
        section, nuclei = passing(record), read_nuclei(record.files / NUCLEI_FILE)
        unit = section.source.get("pixel_um") or affines.PIXEL_UM
        start = section.to_image
        if alignment is not None:
            start = affines.to_image(affines.read_affine(alignment), way, unit, inverse=inverse)
        if start is None:
            raise InputError(
                f"{record.folder}: the section does not say where it lies on the image; give the alignment that Xenium"
                " Explorer exports (`alignment`, a CSV)"
            )
        with open_image(record) as reader:
            size, mpp = (reader.width, reader.height), (reader.mpp_x, reader.mpp_y)
        check = affines.check_affine(start, section.points, size, float(np.mean(mpp)), pixel_um=unit)
        found = refine(
            section.points,
            nuclei.points,
            start,
            mpp,
            options,
            progress=None if progress is None else lambda share: progress(0.7 * share),
        )
        require_same_section(found.evidence)
        pairs = pair(
            section.cells.obs_names.to_numpy(dtype=object),
            section.points,
            section.nuclei,
            nuclei,
            found.after,
            mpp,
            pairing,
            progress=None if progress is None else lambda share: progress(0.7 + 0.3 * share),
        )
        facts = pairs_summary(pairs, section.cells.n_obs, len(nuclei))
        there = nuclei.points[pairs["nucleus"].to_numpy()] * pixel_scale(mpp)
        left = residual_map(there, pairs[["dx_um", "dy_um"]].to_numpy(dtype=np.float64))
        found.write(outputs[0], pairs=facts)
        keep_pairs(pairs, outputs[1])
        return {
            "start": str(check.description),
            "inside": check.inside,
            "warnings": [*check.warnings, *misfit_warnings(left, options.local_um, options.local_share)],
            **found.as_json(),
            "pairs": facts,
        }

    return record.run("align", settings, outputs, work, keep=keep)


def write_step(
    record: Record,
    options: WriteOptions | None = None,
    *,
    spots: Path | None = None,
    donor: str = "",
    licence: str = "unknown",
    keep: bool = True,
    progress: Told | None = None,
) -> bool:
    """Step 6: the training set. ``spots``: a table of spots (CSV or Parquet), see ``write_set``."""
    options = options or WriteOptions()
    settings = {"options": plain(options), "spots": stamp(spots), "donor": donor, "licence": licence}

    def work() -> dict[str, Any]:
        section, image = read_kept(record.files), record.settings("nuclei")
        info = write_set(
            section,
            Path(image["image"][0]),
            read_nuclei(record.files / NUCLEI_FILE),
            read_pairs(record.files / PAIRS_FILE),
            read_table(record.files / TYPES_FILE),
            record.folder,
            options,
            affine=read_alignment(record.files / ALIGNMENT_FILE).after,
            mpp=image["mpp"],
            spots=None if spots is None else read_table(spots),
            donor=donor,
            licence=licence,
            progress=progress,
        )
        return {
            "patches": info.patches,
            "nuclei": info.nuclei,
            "types": list(info.types),
            "regions": [slide.model_dump(mode="json") for slide in info.slides],
            "made_with": info.made_with,
        }

    from celldetr.data.patch_set import SET_FILE

    return record.run("write", settings, (record.folder / SET_FILE,), work, keep=keep)


def passing(record: Record) -> Section:
    """The cells that passed step 2."""
    return passed_cells(read_kept(record.files), read_table(record.files / QUALITY_FILE))


def open_image(record: Record) -> SlideReader:
    """The H&E image that step 4 looked at.

    Raises:
        InputError: step 4 was not run, or the image is not there any more.
    """
    settings = record.settings("nuclei")
    return open_slide(Path(settings["image"][0]), settings["mpp"])


def _found(
    record: Record,
    image: Path,
    model: Model | str | Path | None,
    mpp: float | None,
    device: str,
    progress: Told | None,
) -> Nuclei:
    """What a model finds; a run that was interrupted goes on."""
    from celldetr.api import Model, load_model

    loaded = model if isinstance(model, Model) else load_model(model, device)
    # Whatever else a run that is to be resumed must share: one of another version is begun anew.
    settings = [package_version("celldetr"), PredictOptions().model_dump(mode="json")]
    what = json.dumps([stamp(image), loaded.describe(), mpp, *settings], default=str)
    folder = record.files / f"{PREDICTED}{hashlib.sha256(what.encode()).hexdigest()[:8]}"
    for other in record.files.glob(f"{PREDICTED}*"):
        if other != folder:  # of another model, image or version
            shutil.rmtree(other)
    return nuclei_from_model(image, folder, loaded, mpp=mpp, progress=progress)


def _model_name(model: Model | str | Path | None) -> Any:
    from celldetr.api import Model
    from celldetr.model.hub import find_model

    return model.describe() if isinstance(model, Model) else stamp(find_model(model))


def _median_side(nuclei: Nuclei, mpp: tuple[float, float]) -> float:
    sides = (nuclei.boxes[:, 2:] - nuclei.boxes[:, :2]) * np.array(mpp)
    return float(np.median(sides.mean(axis=1))) if len(sides) else 0.0


def one_of(name: str, known: Any, what: str) -> Any:
    """``name``, if it is among the values of a ``Literal``.

    Raises:
        InputError: it is not; near ones are named.
    """
    if name not in get_args(known):
        raise InputError(f"{what} {name!r} is unknown; {near(name, get_args(known))}")
    return name


def plain(options: Config) -> dict[str, Any]:
    """Settings for the record."""
    return options.model_dump(mode="json")
