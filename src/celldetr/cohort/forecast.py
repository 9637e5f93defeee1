"""``--dry-run``: what a run would do with each slide. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from celldetr.cohort.request import Request, one_line
from celldetr.errors import InputError
from celldetr.slide.band_cache import BandCache
from celldetr.slide.engine import slide_folder
from celldetr.slide.find import Slide
from celldetr.slide.plan import checked_plan
from celldetr.slide.provenance import identity
from celldetr.slide.reader import open_slide

if TYPE_CHECKING:
    from celldetr.model.inference import TilePredictor


@dataclass(frozen=True)
class Forecast:
    """What would be done with a slide."""

    slide: Slide
    directory: Path  # where its results would go
    reason: str = ""  # why it would fail; empty if it would not, as far as can be seen
    finished: bool = False  # its results are there and would be kept
    width: int = 0  # of level 0, px
    height: int = 0
    mpp: float = 0.0  # micrometres per pixel of level 0
    mpp_source: str = ""  # where that is from
    tissue_mm2: float = 0.0  # of tissue
    tiles: int = 0  # to be read in all
    tiles_left: int = 0  # to be read in this run
    tasks: int = 0  # regions of ``task_tiles`` tiles that are left; on a cluster with few slides they are cut smaller


def forecast(slides: Sequence[Slide], request: Request) -> Iterator[Forecast]:
    """Look at each slide in turn."""
    from celldetr.model.inference import TilePredictor

    model = TilePredictor.load(request.model)
    for slide in slides:
        directory = request.out / slide.name
        try:
            yield _look(slide, directory, request, model)
        except InputError as error:
            yield Forecast(slide, directory, reason=one_line(error))


def _look(slide: Slide, directory: Path, request: Request, model: TilePredictor) -> Forecast:
    options = request.options_of(slide)
    with open_slide(slide.path, options.mpp) as reader:
        folder = slide_folder(directory, identity(reader, model, options))
        folder.check(resume=request.resume, overwrite=request.overwrite)
        plan = checked_plan(reader, model, options)
        if folder.is_finished:
            todo = []
        elif request.overwrite:
            todo = plan.bands
        else:
            todo = BandCache(directory, folder.request).missing(plan.bands)
        return Forecast(
            slide,
            directory,
            finished=folder.is_finished,
            width=reader.width,
            height=reader.height,
            mpp=reader.mpp,
            mpp_source=reader.mpp_source,
            tissue_mm2=plan.tissue_mm2,
            tiles=plan.count(plan.bands),
            tiles_left=plan.count(todo),
            tasks=len(plan.regions(todo, request.task_tiles)),
        )
