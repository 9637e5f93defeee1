"""Nuclei of the H&E image (step 4): found by a model, read from a run of ``celldetr predict``, or from a file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from celldetr.cells.reader import read_cells
from celldetr.errors import InputError, doubt
from celldetr.slide.nucleus_size import ENOUGH, size_doubt
from celldetr.slide.options import PredictOptions
from celldetr.slide.provenance import package_version
from celldetr.slide.reader import open_slide
from celldetr.spatial.affine import Mpp, pixel_scale
from celldetr.spatial.files import stamp
from celldetr.spatial.nuclei_files import nuclei_from_file
from celldetr.spatial.section import Nuclei

if TYPE_CHECKING:
    from celldetr.api import Model

MOST_OUTSIDE = 0.01  # share of nuclei beyond the image: a detector may place some over its edge
PLAUSIBLE_UM = (2.0, 40.0)  # median size of nuclei: beyond, their pixels are not those of level 0
PREDICTED = "predicted-"  # begins the name of the folder of a model's run


def find_nuclei(
    image: Path,
    folder: Path,
    *,
    model: Model | str | Path | None = None,
    polygons: Path | None = None,
    cells: Path | None = None,
    mpp: float | None = None,
    device: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> tuple[Nuclei, dict[str, Any]]:
    """The nuclei of an H&E image, and numbers of them, JSON-able.

    They are those that a model finds (None: the default one), in a run in ``folder``; or of a file of ``polygons``
    (QuPath's GeoJSON, CellViT's JSON), or the ``cells.parquet`` of ``celldetr predict``. ``mpp`` is micrometres per
    level-0 pixel, instead of what the image says.
    """
    with open_slide(image, mpp) as reader:
        size, resolution = (reader.width, reader.height), (reader.mpp_x, reader.mpp_y)
        corner = reader.bounds[:2] if reader.bounds else (0.0, 0.0)
    if polygons is not None:
        nuclei = nuclei_from_file(polygons, resolution, corner)
    elif cells is not None:
        nuclei = nuclei_from_cells(cells)
    else:
        nuclei = nuclei_from_model(image, folder, model, mpp=mpp, device=device, progress=progress)
    check_nuclei(nuclei, *size, resolution)
    sides = ((nuclei.boxes[:, 2:] - nuclei.boxes[:, :2]) * np.array(resolution)).mean(axis=1)
    return nuclei, {
        "image": image.name,
        "size": list(size),
        "mpp": list(resolution),
        "nuclei": len(nuclei),
        "polygons": nuclei.polygons is not None,
        "median_side_um": float(np.median(sides)),
        "source": nuclei.source,
    }


def nuclei_from_model(
    image: Path,
    folder: Path,
    model: Model | str | Path | None = None,
    *,
    mpp: float | None = None,
    device: str = "auto",
    progress: Callable[[float], None] | None = None,
) -> Nuclei:
    """Find nuclei as ``celldetr predict`` does. An interrupted run is resumed.

    The run is in ``folder``/PREDICTED-HASH, by image, model and version; others of that name are removed. Arguments and
    errors are those of ``find_nuclei``.
    """
    from celldetr.api import Model, load_model, predict_slide

    loaded = model if isinstance(model, Model) else load_model(model, device)
    # All that a run to be resumed must share.
    settings = [package_version("celldetr"), PredictOptions().model_dump(mode="json")]
    request = json.dumps([stamp(image), loaded.describe(), mpp, *settings], default=str)
    out = folder / f"{PREDICTED}{hashlib.sha256(request.encode()).hexdigest()[:8]}"
    for other in folder.glob(f"{PREDICTED}*"):
        if other != out:
            shutil.rmtree(other)
    summary = predict_slide(
        image,
        out,
        model=loaded,
        mpp=mpp,
        resume=True,
        progress=None if progress is None else lambda at: progress(at.tiles / max(at.tiles_total, 1)),
    )
    return nuclei_from_cells(summary.directory)


def nuclei_from_cells(cells: Path | str) -> Nuclei:
    """The nuclei of a finished run of ``celldetr predict`` (its folder, or ``cells.parquet``): boxes and scores."""
    table = read_cells(cells, ["cell_id", "x_px", "y_px", "w_px", "h_px", "score"])
    if not len(table):
        raise InputError(f"{cells}: no nucleus was found; is it an H&E, with the right mpp? See its overview.png")
    centre, size = table[["x_px", "y_px"]].to_numpy(np.float64), table[["w_px", "h_px"]].to_numpy(np.float64)
    boxes = np.hstack([centre - size / 2, centre + size / 2]).astype(np.float32)
    source = {"format": "celldetr", "run": table.attrs.get("celldetr", {})}
    return Nuclei(boxes, table["score"].to_numpy(np.float32), None, source)


def check_nuclei(nuclei: Nuclei, width: int, height: int, mpp: Mpp) -> None:
    """Refuse nuclei that cannot be of an image: more than one in a hundred outside, or of an impossible size."""
    if not len(nuclei):
        raise InputError("there are no nuclei; check the image, or the file that should have them")
    x, y = nuclei.points.T
    outside = (x < 0) | (y < 0) | (x > width) | (y > height)
    if outside.mean() > MOST_OUTSIDE:
        raise InputError(
            f"{outside.sum():,} of {len(nuclei):,} nuclei lie outside of the image of {width:,} x {height:,} px (they "
            f"reach x {x.max():,.0f}, y {y.max():,.0f}): they are of another slide, or not in level-0 pixels"
        )
    size = np.sqrt(np.prod((nuclei.boxes[:, 2:] - nuclei.boxes[:, :2]) * pixel_scale(mpp), axis=1))
    median = float(np.median(size))
    if not PLAUSIBLE_UM[0] <= median <= PLAUSIBLE_UM[1]:
        raise InputError(
            f"nuclei of {median:.2g} um in the median: expected {PLAUSIBLE_UM[0]:g} to {PLAUSIBLE_UM[1]:g}; they are "
            "not in level-0 pixels, or the mpp of the image is wrong"
        )
    if len(nuclei) >= ENOUGH and (sentence := size_doubt(median, float(np.sqrt(np.prod(pixel_scale(mpp)))))):
        doubt(sentence)
    if outside.any():
        doubt(f"{outside.sum():,} of {len(nuclei):,} nuclei lie outside of the image")
