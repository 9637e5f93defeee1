"""A slide as prediction sees it: its file, its stain, and what the model finds at a few places of its tissue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celldetr.cells.rows import cell_rows
from celldetr.model.output import TileCells, TileModel
from celldetr.outlines import outline_points
from celldetr.report.contact_sheet import OUTLINE, Picture
from celldetr.slide.array import find_cells
from celldetr.slide.base_reader import SlideReader
from celldetr.slide.damage import read_around
from celldetr.slide.doubts import PLACES, CellFacts, doubts
from celldetr.slide.levels import Level
from celldetr.slide.options import PredictOptions
from celldetr.slide.pipeline import Job
from celldetr.slide.plan import Plan, checked_plan
from celldetr.slide.provenance import job_warnings, scarcity_warnings
from celldetr.slide.reader import open_slide
from celldetr.slide.seams import centres
from celldetr.slide.tissue import find_tissue
from celldetr.survey.finding import Finding

SHOWN = 384  # px of the longer side of the picture of a slide


def look_at_slide(path: Path, mpp: float | None, model: Callable[[], TileModel], *, pictures: bool = False) -> Finding:
    """Open a slide, and find the nuclei of a few places; ``model`` is called if there is tissue to be looked at."""
    finding = Finding(path, "slide")
    with finding.noting(), open_slide(path, mpp) as reader:
        finding.facts = {
            "format": reader.format,
            "size": f"{reader.width:,} x {reader.height:,} px",
            "mpp": f"{reader.mpp:.4g} ({reader.mpp_source})",
            "levels": f"{len(reader.levels)} (reductions {', '.join(map(_level, reader.levels))})",
        }
        finding.notes = list(reader.warnings)
        _look_at_tissue(finding, reader, model(), pictures=pictures)
    return finding


def _level(level: Level) -> str:
    x, y = level.downsample
    shown = f"{x:.4g}" if f"{x:.4g}" == f"{y:.4g}" else f"{x:.4g} x {y:.4g}"
    return shown + ", filled up" * level.filled if level.usable else "one not used"


def _look_at_tissue(finding: Finding, reader: SlideReader, model: TileModel, *, pictures: bool) -> None:
    """What ``celldetr predict`` would say of the slide, from its tissue and from the nuclei of ``PLACES`` tiles."""
    options = PredictOptions()
    plan = checked_plan(reader, model, options)
    finding.notes = job_warnings(Job(reader, model, options, plan))
    finding.facts["tissue"] = f"{plan.tissue_mm2:.3g} mm2"
    if not plan.selected.any():
        return
    finding.facts["stain"] = plan.looks or "none, it is grey"
    job = Job(reader, model, options, some_tiles(plan, PLACES))
    cells = find_cells(job)
    facts = CellFacts.of(cell_rows(cells, model.types, (reader.mpp_x, reader.mpp_y)), reader.mpp)
    places = int(job.plan.selected.sum())
    finding.facts["nuclei"] = f"{len(cells):,} at {places} place{'s' * (places > 1)}"
    if len(cells):
        finding.facts["nuclei"] += f", score {facts.median_score:.2f} in the median"
        finding.facts["median size"] = f"{facts.sizes.median:.1f} um"
    finding.notes += doubts(job, facts) + scarcity_warnings(len(cells), job.plan.tissue_mm2)
    if pictures:
        finding.pictures = [_whole(job, finding.path.name), *_places(job, cells)]


def some_tiles(plan: Plan, count: int) -> Plan:
    """At most ``count`` of the tiles of a plan, spread over those that have much tissue."""
    boxes = plan.boxes()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    full = np.sort(np.argsort(-areas, kind="stable")[: max(count, -(-len(areas) // 2))])
    chosen = full[np.unique(np.linspace(0, len(full) - 1, 2 * count + 1)[1::2].round().astype(int))]
    selected = np.zeros(plan.selected.size, dtype=bool)
    selected[np.flatnonzero(plan.selected)[chosen]] = True
    share = float(areas[chosen].sum() / areas.sum())
    return replace(plan, selected=selected.reshape(plan.selected.shape), tissue_mm2=plan.tissue_mm2 * share)


def _whole(job: Job, name: str) -> Picture:
    """The slide with the border of its tissue, and the places that were looked at."""
    reader = job.reader
    scale = SHOWN / max(reader.width, reader.height)
    width, height = max(1, round(reader.width * scale)), max(1, round(reader.height * scale))
    image = read_around(reader, 0, 0, reader.width, reader.height, width, height)[0].copy()
    tissue = np.asarray(Image.fromarray(find_tissue(reader).mask).resize((width, height)))
    image[_border(tissue)] = OUTLINE
    boxes = (job.plan.boxes() * scale).astype(np.float32)
    return Picture(image, boxes, f"{job.plan.tissue_mm2:.2g} mm2 looked at, {name}")


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def _places(job: Job, cells: TileCells) -> list[Picture]:
    """The places that were looked at, with the nuclei that were found."""
    pictures = []
    scale = np.tile(job.plan.grid.scale, 2)
    boxes = cells.boxes / scale
    outlines = None if cells.radii is None else outline_points(boxes, cells.radii)
    for tile in (tile for band in job.plan.bands for tile in job.plan.tiles(band)):
        corner, size = np.array([tile.x, tile.y]), np.array([tile.width, tile.height])
        x, y, width, height = (np.concatenate([corner, size]) * scale).tolist()
        image, _ = read_around(job.reader, x, y, width, height, tile.width, tile.height)
        inside = ((centres(boxes) >= corner) & (centres(boxes) < corner + size)).all(1)
        own = (boxes[inside] - np.tile(corner, 2)).astype(np.float32)
        drawn = None if outlines is None else outlines[inside] - corner
        pictures.append(Picture(image, own, f"{len(own)} nuclei at x {x:,.0f}, y {y:,.0f}", drawn))
    return pictures
