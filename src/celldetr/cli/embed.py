"""``celldetr embed``: cells that another program found, or a person drew, typed and embedded."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.options import Formats, Out, Overwrite, Quiet, Resume
from celldetr.cli.predict import PARTIAL, note_untyped, report_outcome
from celldetr.cli.progress import Progress, slides_listener
from celldetr.config import InferenceOptions
from celldetr.given.options import EmbedOptions


@resumable()
@with_settings
def embed(
    *,
    slide: Annotated[Path, typer.Argument(metavar="SLIDE", help="What OpenSlide reads, TIFF (plain, OME), PNG, JPEG.")],
    cells: Annotated[
        Path,
        typer.Option(
            "--cells",
            metavar="FILE",
            help="GeoJSON of QuPath; JSON of CellViT, HoVer-Net, LabelMe; CSV of centres or boxes; a label image "
            "(TIFF, PNG, npy); cells.parquet of celldetr.",
        ),
    ],
    out: Out,
    formats: Formats = None,
    inference: Annotated[
        InferenceOptions, Fields("model=--model,-m", "device", "precision", "orientations", "boxes=--boxes")
    ],
    options: Annotated[EmbedOptions, Fields("mpp", "origin")],
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Type and embed cells that are known already.

    Nothing is detected: OUT/SLIDE/ gets what predict writes, with the cells of FILE in their order and their ids in
    the column given_id. Outlines in FILE stay the geometry; of other cells the model draws them.

    Exit codes as of predict; 3: the slide is damaged, and cells there are missing.
    """
    from celldetr.cohort.request import Outcome
    from celldetr.given.run import embed_slide
    from celldetr.model.inference import TilePredictor
    from celldetr.slide.find import Slide
    from celldetr.slide.reader import open_slide

    open_slide(slide, options.mpp).close()  # before seconds are spent on a model
    note_untyped(inference.model)
    of = Slide(slide)
    with Progress("embed", quiet) as progress:
        summary = embed_slide(
            slide,
            cells,
            out,
            TilePredictor.load(inference),
            options,
            formats=formats or (),
            resume=resume,
            overwrite=overwrite,
            progress=partial(slides_listener(progress, 1), of),
        )
    outcome = Outcome(of, summary)
    report_outcome(outcome)
    if outcome.status == "partial":
        raise typer.Exit(PARTIAL)
