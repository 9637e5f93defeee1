"""``celldetr data sample``: patches of slides, with their nuclei."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celldetr.cli.command import Command
from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.messages import complain, note
from celldetr.cli.options import Overwrite, Quiet, Resume
from celldetr.cli.predict import PARTIAL
from celldetr.cli.progress import Progress, sampling_listener
from celldetr.config import InferenceOptions
from celldetr.errors import InputError
from celldetr.sampling.options import SampleOptions, SlideFacts

if TYPE_CHECKING:
    from celldetr.data.patch_set import PatchSetInfo

NAMED = 20  # slides that are listed one by one

data_app = typer.Typer(name="data", help="Make data to train on.", no_args_is_help=True)


@data_app.callback()
def group() -> None:
    """Make data to train on."""


@data_app.command(cls=Command)
@resumable()
@with_settings
def sample(
    *,
    slides: Annotated[
        list[Path],
        typer.Argument(
            metavar="SLIDES",
            help="What OpenSlide reads, TIFF, PNG, JPEG; a folder of slides or images; a list (.txt, .csv with mpp).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="SET", help="Folder of the set; made if needed.")],
    inference: Annotated[InferenceOptions, Fields("model=--model,-m", "threshold", "device", "precision")],
    polygons: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Nuclei from QuPath's GeoJSON instead of a model: a file for one slide, a folder of SLIDE.geojson.",
        ),
    ] = None,
    facts: Annotated[SlideFacts, Fields("mpp", "patch_mpp", "licence")],
    options: Annotated[
        SampleOptions,
        Fields(*SampleOptions.model_fields),
    ],
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Cut patches without labels from slides.

    And find their nuclei: SET gets set.json, set.png and patches-*.arrow. Places are drawn at random from a grid over
    the tissue of each slide, without overlap. Patches that are blurred, under a pen, mostly glass, damaged, or without
    nuclei are left out and counted. In a recipe the set is `train: [{card: SET, split: train}]`; splits are all, train
    and val, and whole slides where there are several.

    Exit code 0: all done; 2: nothing could be used; 3: some slides could not, which are named; 130 or 143: interrupted,
    continue with --resume.
    """
    from celldetr.data.patch_writer import PICTURE
    from celldetr.slide.find import find_slides

    found = find_slides(slides, out)
    if polygons is not None and inference.threshold is not None:
        raise InputError("`polygons`: `threshold` is a model's; leave one of them out")
    if polygons is not None and len(found) > 1 and not polygons.is_dir():
        raise InputError(
            f"`polygons={polygons}`: is of one slide, {len(found)} are given; name a folder of SLIDE.geojson"
        )
    if polygons is None and facts.patch_mpp is not None:
        raise InputError(f"`patch_mpp={facts.patch_mpp:g}`: patches are at the model's own; it goes with `polygons`")

    from celldetr.data.patch_set import PatchSet
    from celldetr.sampling.nuclei import FoundByModel, FromQuPath, NucleusSource
    from celldetr.sampling.report import size_warnings
    from celldetr.sampling.run import sample_slides

    resolution = facts.patch_mpp
    if resolution is None:  # else no network need be imported
        from celldetr.model.checkpoint import read_card
        from celldetr.model.hub import find_model

        resolution = read_card(find_model(inference.model)).config.mpp
    nuclei: NucleusSource
    if polygons is not None:
        nuclei = FromQuPath(polygons)
    else:
        from celldetr.model.inference import TilePredictor

        nuclei = FoundByModel(TilePredictor.load(inference))
    with Progress("sample", quiet) as progress:
        info = sample_slides(
            found,
            out,
            nuclei,
            options,
            mpp=facts.mpp,
            patch_mpp=resolution,
            licence=facts.licence,
            resume=resume,
            overwrite=overwrite,
            progress=sampling_listener(progress),
        )
    _report(info, out)
    for warning in size_warnings(PatchSet(out)) if info.patches else ():
        note(warning)
    if (out / PICTURE).is_file():
        typer.echo(f"look at it: {out / PICTURE}")
    if any(slide.failed for slide in info.slides):
        raise typer.Exit(PARTIAL)


def _report(info: PatchSetInfo, out: Path) -> None:
    """Say what is in a set: slides, then all together; what could not be used goes to standard error."""
    for slide in info.slides[:NAMED]:
        if not slide.failed:
            left = ", ".join(f"{count:,} {reason}" for reason, count in slide.left_out.items())
            typer.echo(
                f"{slide.name}: {slide.patches:,} patches, {slide.nuclei:,} nuclei; {slide.places:,} places with tissue"
                + (f", left out {left}" if left else "")
            )
    if len(info.slides) > NAMED:
        typer.echo(f"... and {len(info.slides) - NAMED:,} slides more, see set.json")
    for slide in info.slides:
        if slide.failed:
            complain(slide.failed)
    reasons: Counter[str] = Counter()
    for slide in info.slides:
        reasons.update(slide.left_out)
    left = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items())) or "nothing"
    used = sum(slide.patches > 0 for slide in info.slides)
    typer.echo(
        f"{out}: {info.patches:,} patches of {info.px} px at {info.mpp:g} um"
        f" from {used:,} of {len(info.slides):,} slides, {info.nuclei:,} nuclei; left out: {left}"
    )
