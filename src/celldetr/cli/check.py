"""``celldetr check``: what slides, labels and sections are, as other commands would read them, and what is doubtful."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from celldetr.cli.messages import with_options
from celldetr.cli.options import Device, ModelName, Overwrite, check_file

if TYPE_CHECKING:
    from celldetr.api import Model

SHOWN, COLUMNS = 24, 6  # images of the picture


def check(
    *,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="Slides, folders or lists of slides; labels: a folder, a file or a card; a Xenium bundle or an .h5ad.",
        ),
    ],
    mpp: Annotated[
        float | None, typer.Option(metavar="NUMBER", help="Micrometres per pixel, instead of what files say.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PNG of up to 24 images: labels on their images; slides with their tissue, and nuclei at places.",
        ),
    ] = None,
    model: ModelName = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Look at slides, labels and Xenium bundles before they are used.

    Of each: format, size, micrometres per pixel and where these are from, levels. Of a slide what it is stained with,
    and how many nuclei of what size the model finds at six places; of labels nuclei, their median size, types with
    counts; of a bundle cells, their polygons, images and alignment. Then what was left out and why, and what looks
    wrong: another stain, another resolution, objects twice, labels that do not lie on nuclei. Exit code 0: nothing is
    doubtful; 1: something is; 2: wrong options.
    """
    from celldetr.report.contact_sheet import write_contact_sheet
    from celldetr.survey.paths import survey

    @cache
    def load() -> Model:
        from celldetr.api import load_model

        return load_model(model, device)

    if picture is not None:
        check_file(picture, overwrite, "check.png")
    doubtful, pictures = False, []
    for path in paths:
        for finding in survey(path, mpp, load, pictures=picture is not None):
            for line in finding.table():
                typer.echo(with_options(line))
            doubtful |= finding.is_doubtful
            pictures += finding.pictures
    if picture is not None and pictures:
        places = np.unique(np.linspace(0, len(pictures) - 1, min(SHOWN, len(pictures))).round().astype(int))
        write_contact_sheet([pictures[place] for place in places], picture, COLUMNS)
        typer.echo(f"look at it: {picture}")
    if doubtful:
        raise typer.Exit(1)
