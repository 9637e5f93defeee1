"""``celldetr check``: what slides and labels are, as the other commands would read them, and what is doubtful."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.messages import with_options
from celldetr.cli.options import Overwrite, check_file

SHOWN, COLUMNS = 24, 6  # images of the picture


def check(
    *,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Slides, folders or lists of slides; labels: a folder, a file or a card."),
    ],
    mpp: Annotated[
        float | None, typer.Option(metavar="NUMBER", help="Micrometres per pixel, instead of what files say.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PNG of up to 24 images with their labels; none without.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Look at slides and labels before they are used.

    For each: format, size, micrometres per pixel and where these are from, levels; of labels nuclei, their median size,
    types with counts. Then what was left out and why, and what looks wrong: objects twice, nuclei of an unlikely size,
    labels that do not lie on nuclei. Exit code 0: nothing is doubtful; 1: something is; 2: wrong options.
    """
    from celldetr.data.survey import survey, table
    from celldetr.report.contact_sheet import Picture, write_contact_sheet

    if picture is not None:
        check_file(picture, overwrite, "labels.png")
    findings = [finding for path in paths for finding in survey(path, mpp)]
    for finding in findings:
        for line in table(finding):
            typer.echo(with_options(line))
    samples = [sample for finding in findings for sample in finding.samples]
    if picture is not None and samples:
        chosen = samples[:: max(1, len(samples) // SHOWN)][:SHOWN]
        drawn = [Picture(sample.image, sample.boxes, f"{len(sample)} nuclei, {sample.name}") for sample in chosen]
        write_contact_sheet(drawn, picture, min(COLUMNS, len(drawn)))
        typer.echo(f"look at it: {picture}")
    if any(finding.is_doubtful for finding in findings):
        raise typer.Exit(1)
