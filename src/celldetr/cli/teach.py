"""``celldetr retype`` and ``labels``: what was taught in ``celldetr view``, applied and taken elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.interrupt import resumable
from celldetr.cli.messages import note
from celldetr.cli.options import Cells, Overwrite, Quiet, SlideFiles
from celldetr.cli.progress import Progress


@resumable("run it again")
def retype(
    *,
    cells: Cells,
    head: Annotated[Path, typer.Option(metavar="FOLDER", help="The head, as saved in celldetr view.")],
    slides: SlideFiles = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the types of another head.")] = False,
    quiet: Quiet = False,
) -> None:
    """Type finished cells again by a head of your own.

    Every cells.parquet gets the columns taught_type, taught_type_score and taught_p_TYPE; all else in it stays. Slides
    that this head has typed already are left as they are. Nothing is predicted again: a million cells take seconds.
    Exports beside a table are written again; with --slides, overview.png and summary.html are, too.
    """
    from celldetr.cohort.predict import draw_again
    from celldetr.search.slides import check_slides
    from celldetr.teach.retype import retype as type_again

    check_slides(slides or ())
    with Progress("retype", quiet) as progress:
        done = type_again(cells, head, overwrite=overwrite, progress=progress.counter("retype", "cells"))
    for name, count in done.counts.items():
        typer.echo(f"{name}: {count:,}")
    typer.echo(f"{done.typed} slides typed, {done.kept} had these types already")
    if slides:
        for line in draw_again(cells, slides):
            note(line)
    elif done.typed:
        note("overview.png and summary.html show the types from before; with --slides they are drawn again")


def labels(
    *,
    cells: Cells,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the labels; made if needed.")],
    slides: SlideFiles = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the labels that were taught, for QuPath and for training.

    A GeoJSON file for each slide with labels: labelled cells with their class, regions around them, and the other
    cells in these, but for those that were struck out; added nuclei, too. With --slides, links to the slides are put
    beside, as celldetr train finetune --data FOLDER wants them.
    """
    from celldetr.teach.label_set import write_labels

    done = write_labels(cells, out, slides or (), overwrite=overwrite)
    for line in done.missing:
        note(line)
    for name, count in done.labels.items():
        typer.echo(f"{name}: {count:,}")
    typer.echo(f"{done.nuclei:,} nuclei in regions, {done.added} of them added; see {out}")
