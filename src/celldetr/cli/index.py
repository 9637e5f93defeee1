"""``celldetr index``: an index of embeddings for `celldetr similar`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.interrupt import resumable
from celldetr.cli.options import Cells, Overwrite, Quiet
from celldetr.cli.progress import Progress


@resumable("run it again")
def index(
    cells: Cells,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the index.", show_default="neighbours/ in CELLS")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample that the index's lists are made from.")] = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make an index for `similar`, so that a million cells are searched in milliseconds; or bring one up to date.

    Slides that are in the index and have not changed are kept, new ones are added, those not in CELLS are dropped. An
    interrupted run continues when it is started again; --overwrite makes all anew. Needs the extra `search` (faiss).
    """
    from celldetr.search.index import build_index

    with Progress(quiet) as progress:
        built = build_index(cells, out, overwrite=overwrite, seed=seed, progress=progress.counter("index", "cells"))
    kept = f"{built.added} read, {built.kept} kept, {built.dropped} dropped"
    typer.echo(f"{built.path}: {built.cells:,} cells of {built.slides} slides ({kept})")
