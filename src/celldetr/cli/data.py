"""Commands that make data: ``celldetr data ...``; as in ``cli``: parse, call, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celldetr.cli import checks
from celldetr.cli.command import Command
from celldetr.cli.interrupt import resumable
from celldetr.cli.messages import complain, note
from celldetr.cli.options import Device, ModelName, Overwrite, PrecisionName, Quiet, Resume
from celldetr.cli.predict import PARTIAL
from celldetr.cli.progress import Progress, sampling_listener
from celldetr.errors import InputError

if TYPE_CHECKING:
    from celldetr.data.patch_set import PatchSetInfo

NAMED = 20  # slides that are told one by one

data_app = typer.Typer(
    name="data", help="Make data to train on: patches of slides without labels.", no_args_is_help=True
)


@data_app.callback()
def group() -> None:
    """Make data to train on: patches of slides without labels."""


@data_app.command(cls=Command)
@resumable()
def sample(
    slides: Annotated[
        list[Path],
        typer.Argument(
            metavar="SLIDES",
            help="What OpenSlide reads, TIFF, PNG, JPEG; a folder of slides or images; a list (.txt, .csv with mpp).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the set; made if needed.")],
    per_slide: Annotated[
        int, typer.Option(min=1, help="Patches of each slide; all it has, if these are fewer.")
    ] = 1000,
    model: ModelName = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least score of a nucleus, 0 to 1.", show_default="the model's own")
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="Nuclei from QuPath's GeoJSON instead of a model: a file for one slide, a folder of SLIDE.geojson."
        ),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel at full resolution, instead of what the files say.")
    ] = None,
    patch_mpp: Annotated[
        float | None,
        typer.Option(help="With --boxes: micrometres per pixel of the patches.", show_default="the model's"),
    ] = None,
    px: Annotated[
        int, typer.Option(help="Side of a patch; larger than what training cuts from it (256), so that zoom has room.")
    ] = 320,
    min_nuclei: Annotated[int, typer.Option(help="Leave out patches with fewer nuclei.")] = 1,
    min_tissue: Annotated[float, typer.Option(help="Leave out patches with a smaller share of tissue.")] = 0.3,
    min_sharpness: Annotated[
        float, typer.Option(help="Leave out blurred patches: sharp ones have .09 and more; 0 takes all.")
    ] = 0.05,
    max_pen: Annotated[float, typer.Option(help="Leave out patches with a larger share of pen.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Of the places and their order; the same seed gives the same set.")] = 0,
    val: Annotated[
        float, typer.Option(help="Share of the slides in split val; of the patches, if of one slide.")
    ] = 0.1,
    png: Annotated[bool, typer.Option("--png", help="Without loss; some six times as large as JPEG.")] = False,
    shard: Annotated[int, typer.Option(min=1, help="Patches of a file.")] = 2000,
    licence: Annotated[str, typer.Option(help="Of the slides; models trained on the set name it.")] = "unknown",
    device: Device = "auto",
    precision: PrecisionName = "auto",
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Cut patches without labels from slides, and find their nuclei: OUT gets set.json, set.png and patches-*.arrow.

    Places are drawn at random from a grid over the tissue of each slide, without overlap. Patches that are blurred,
    under a pen, mostly glass, damaged, or without nuclei are left out and counted. In a recipe the set is
    `train: [{card: OUT, split: train}]`; splits are all, train and val, and whole slides where there are several.

    Exit code 0: all done; 2: nothing could be used; 3: some slides could not, which are named; 130 or 143: interrupted,
    continue with --resume.
    """
    from celldetr.config import parse
    from celldetr.data.patch_writer import PICTURE
    from celldetr.sampling.options import SampleOptions
    from celldetr.slide.find import find_slides

    found = find_slides(slides, out)
    values: dict[str, Any] = {"per_slide": per_slide, "px": px, "min_nuclei": min_nuclei, "min_tissue": min_tissue}
    values |= {"min_sharpness": min_sharpness, "max_pen": max_pen, "seed": seed, "validation": val, "shard": shard}
    options = parse(SampleOptions, values | {"encoding": "png" if png else "jpeg"}, "options")
    if boxes is not None and (threshold is not None or is_file_for_many(boxes, len(found))):
        why = (
            "--threshold is a model's" if threshold is not None else f"{boxes} is of one slide, {len(found)} are given"
        )
        raise InputError(f"--boxes: {why}; with several slides, name a folder of SLIDE.geojson")
    if boxes is None and patch_mpp is not None:
        raise InputError(f"--patch-mpp {patch_mpp:g}: patches are at the model's own; it goes with --boxes")

    from celldetr.data.patch_set import PatchSet
    from celldetr.sampling.checks import size_doubts
    from celldetr.sampling.nuclei import FoundByModel, FromQuPath, NucleusSource
    from celldetr.sampling.run import sample_slides

    resolution = patch_mpp
    if resolution is None:  # else no network need be imported
        from celldetr.model.checkpoint import read_card
        from celldetr.model.hub import find_model

        resolution = read_card(find_model(model)).config.mpp
    nuclei: NucleusSource
    if boxes is not None:
        nuclei = FromQuPath(boxes)
    else:
        from celldetr.api import load_model

        nuclei = FoundByModel(load_model(model, device, precision=checks.precision(precision), threshold=threshold))
    with Progress(quiet) as bar:
        info = sample_slides(
            found,
            out,
            nuclei,
            options,
            mpp=mpp,
            patch_mpp=resolution,
            licence=licence,
            resume=resume,
            overwrite=overwrite,
            progress=sampling_listener(bar),
        )
    tell_set(info, out)
    for doubt in size_doubts(PatchSet(out)) if info.patches else ():
        note(doubt)
    if (out / PICTURE).is_file():
        typer.echo(f"look at it: {out / PICTURE}")
    if any(slide.failed for slide in info.slides):
        raise typer.Exit(PARTIAL)


def is_file_for_many(path: Path, slides: int) -> bool:
    """Whether one file of annotations is given for several slides."""
    return slides > 1 and not path.is_dir()


def tell_set(info: PatchSetInfo, out: Path) -> None:
    """Say what is in a set: slides, then all together; what could not be used goes to standard error."""
    from celldetr.data.patch_set import contents

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
    left = ", ".join(f"{count:,} {reason}" for reason, count in sorted(contents(info.slides).items())) or "nothing"
    used = sum(slide.patches > 0 for slide in info.slides)
    typer.echo(
        f"{out}: {info.patches:,} patches of {info.px} px at {info.mpp:g} um"
        f" from {used:,} of {len(info.slides):,} slides, {info.nuclei:,} nuclei; left out: {left}"
    )
