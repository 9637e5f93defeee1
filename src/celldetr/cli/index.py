"""``celldetr index``: an index of embeddings for `celldetr similar`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.interrupt import resumable
from celldetr.cli.options import Cells, Overwrite, Quiet
from celldetr.cli.progress import Progress
from celldetr.config import IndexOptions


@resumable("run it again")
@with_settings
def index(
    *,
    cells: Cells,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the index; default: neighbours/ in CELLS."),
    ] = None,
    options: Annotated[IndexOptions, Fields("seed")],
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make an index for similar, or bring one up to date.

    With it a million cells are searched in milliseconds. Slides that are in the index and have not changed are kept,
    new ones are added, those not in CELLS are dropped. An interrupted run continues when it is started again;
    --overwrite makes all anew. Needs the extra `search` (faiss).
    """
    from celldetr.search.index import build_index

    with Progress("index", quiet) as progress:
        counter = progress.counter("index", "cells")
        built = build_index(cells, out, overwrite=overwrite, seed=options.seed, progress=counter)
    kept = f"{built.added} read, {built.kept} kept, {built.dropped} dropped"
    typer.echo(f"{built.path}: {built.cells:,} cells of {built.slides} slides ({kept})")
