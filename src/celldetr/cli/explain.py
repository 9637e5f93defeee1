"""``celldetr explain``: where models look to type a cell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli import checks
from celldetr.cli.options import Device, Overwrite, Quiet
from celldetr.cli.progress import Progress


def explain(
    slide: Annotated[Path, typer.Argument(metavar="SLIDE", help="A slide or an image, as for predict.")],
    cells: Annotated[
        Path | None,
        typer.Option(help="OUT/SLIDE of a finished run, or its cells.parquet.", show_default="found by the model"),
    ] = None,
    cell: Annotated[
        list[int] | None,
        typer.Option(help="cell_id of one; repeat for more.", show_default="of each type the surest, the median"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Name or folder; repeat for a column each.", show_default="small-20x"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Figure: .png, .svg or .pdf.")] = Path("explain.png"),
    region: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="X Y WIDTH HEIGHT: without --cells, where cells are looked for, px at full resolution."),
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel, instead of what the file says.")] = None,
    tile: Annotated[
        int, typer.Option(min=64, max=4096, help="Side of what a model sees around a cell, px at its resolution.")
    ] = 768,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw where models look to type a cell: sampling points and attention weights of the representation decoder.

    One row a cell, one column a model. Every model is asked about the same boxes: those of --cells, or those that the
    first model finds in --region. A dot's area is its attention weight, its colour the feature level that it reads.
    """
    from celldetr.explain import explain_slide

    checks.free(out, overwrite, "explain.png")
    with Progress(quiet) as progress:
        listener = progress.counter("cells", "cells")
        told = explain_slide(slide, out, model or [None], cells, cell or (), region, mpp, tile, device, listener)
    for line in told:
        typer.echo(line)
    typer.echo(f"figure: {out}")
