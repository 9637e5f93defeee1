"""Content of ``run.json``: slide, model, settings, machine, times, counts and warnings.

What decides which cells come out is the *identity* of a run; it is only resumed under the same one.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import FailedTile
from celldetr.slide.options import PredictOptions
from celldetr.slide.pipeline import BandInfo, Job
from celldetr.slide.plan import Plan

if TYPE_CHECKING:
    from celldetr.model.output import TileModel

COARSE = 1.5  # times the model's mpp beyond which a slide is magnified more than training ever did
FEW_ON_MM2, FEW_PER_MM2 = 0.02, 5  # tissue larger than this has more cells than so many a mm2; fat has a hundred
LIBRARIES = (
    "numpy", "scipy", "pyarrow", "pillow", "openslide-python", "openslide-bin", "tifffile", "imagecodecs",
    "torch", "timm", "numba",
)  # fmt: skip


def identity(reader: SlideReader, model: TileModel, options: PredictOptions) -> dict[str, Any]:
    """What decides which cells come out, as JSON values."""
    chosen = {
        "version": package_version("celldetr"),
        "slide": reader.file or reader.name,
        "format": reader.format,
        "bytes": reader.size_bytes,
        "width": reader.width,
        "height": reader.height,
        "mpp": reader.mpp,
        "mpp_x": reader.mpp_x,
        "mpp_y": reader.mpp_y,
        "mpp_source": reader.mpp_source,
        "bounds_px": reader.bounds,
        "model": model.describe(),
        "types": list(model.types),
        "options": options.model_dump(mode="json") | {"tile": options.tile_for(model.image_px)},
    }
    values: dict[str, Any] = json.loads(json.dumps(chosen))
    return values


def table_provenance(run: dict[str, Any], failed: int = 0) -> dict[str, Any]:
    """Metadata of the table: what of ``run.json`` decides about it, and the number of ``failed`` tiles, if any."""
    keys = ("version", "slide", "width", "height", "mpp", "mpp_x", "mpp_y", "bounds_px", "model", "types")
    return {key: run[key] for key in keys} | ({"failed_tiles": failed} if failed else {})


def job_warnings(job: Job) -> list[str]:
    """Warnings that are known before a tile is read, one sentence each."""
    warnings = [*job.reader.warnings, *job.plan.notes]
    coarsest = max(job.reader.mpp_x, job.reader.mpp_y)
    if coarsest > COARSE * job.model.mpp:
        warnings.append(
            f"the slide has {coarsest:.3g} um per pixel, the model works at {job.model.mpp:g}: nuclei are "
            "magnified more than in training, so expect fewer and less certain cells"
        )
    if job.options.region is not None and job.reader.bounds is not None and any(job.reader.bounds[:2]):
        x, y = job.reader.bounds[:2]
        warnings.append(
            f"the region counts from the slide's own corner; QuPath counts from that of what was scanned, which is at "
            f"({x}, {y}): add that to numbers from there"
        )
    side, tile = job.model.image_px, job.options.tile
    if side and tile is None:
        warnings.append(
            f"tiles are of {side} px: this model measures in fractions of an image of the size it was trained on"
        )
    elif side and tile != side:
        warnings.append(
            f"tile={tile}: this model measures in fractions of images of {side} px, so expect wrong boxes; "
            f"leave the tile out, or choose {side}"
        )
    if not job.plan.bands:
        where = "" if job.plan.roi is None else " in the ROI"
        warnings.append(f"no tissue was found{where}, so no tile was read; if there is some, turn the tissue mask off")
    return warnings


def scarcity_warnings(cells: int, tissue_mm2: float) -> list[str]:
    """One sentence if tissue has hardly a cell: then it is probably no H&E, or of another resolution than was said."""
    if tissue_mm2 <= FEW_ON_MM2 or cells >= FEW_PER_MM2 * tissue_mm2:
        return []
    return [
        f"hardly a cell found: {cells} on {tissue_mm2:.3g} mm2 of tissue; is this an H&E image at this resolution? "
        "Look at it, and give the right one with `mpp`, or a lower `threshold`"
    ]


def results(infos: Sequence[BandInfo], plan: Plan, types: Sequence[str]) -> dict[str, Any]:
    """Counts and areas of a finished run, and what could not be decoded."""
    failed = [tile for info in infos for tile in info.failed]
    counts = np.sum([info.counts for info in infos], axis=0, initial=0).tolist() if infos else [0] * len(types)
    return {
        "tissue_mm2": round(plan.tissue_mm2, 6),
        "read_mm2": round(plan.area_of(plan.bands) - sum(tile.mm2 for tile in failed), 6),
        "tiles": {"grid": len(plan.grid), "read": sum(info.tiles for info in infos), "failed": len(failed)},
        "cells": {"total": sum(counts), "by_type": dict(zip(types, counts, strict=True))},
        "failed_tiles": [asdict(tile) for tile in failed],
    }


def damage_warning(failed: Sequence[FailedTile]) -> str:
    """One sentence about the tiles that could not be decoded, of which there are some."""
    area = sum(tile.mm2 for tile in failed)
    tiles = f"{len(failed):,} tile{'s' * (len(failed) > 1)}"
    return f"the slide is damaged: {area:.2g} mm² in {tiles} could not be decoded, so the cells there are missing"


def now() -> str:
    """The present moment, UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_version(name: str) -> str | None:
    """Version of an installed package without importing it; None if it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Versions of the libraries that matter, and the machine."""
    return {
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in LIBRARIES}},
        "platform": {"system": platform.platform(), "machine": platform.machine()},
    }
