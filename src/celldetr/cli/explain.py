"""``celldetr explain``: where models look to type a cell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.from_config import Fields, with_settings
from celldetr.cli.options import Device, Overwrite, Quiet, check_file
from celldetr.cli.progress import Progress
from celldetr.config import ExplainOptions


@with_settings
def explain(
    *,
    slide: Annotated[Path, typer.Argument(metavar="SLIDE", help="A slide or an image, as for predict.")],
    cells: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="OUT/SLIDE of a finished run, or its cells.parquet; default: found by the model."
        ),
    ] = None,
    cell: Annotated[
        list[int] | None,
        typer.Option(
            metavar="ID",
            help="cell_id of one; repeat for more; default: of each type the surest and the median.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="NAME|FOLDER", help="Model; repeat for a column each; default: small-20x."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Figure: .png, .svg or .pdf.")] = Path(
        "explain.png"
    ),
    options: Annotated[ExplainOptions, Fields("region", "mpp", "tile")],
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw where models look to type a cell.

    Sampling points and attention weights of the representation decoder. One row a cell, one column a model. Every model
    is asked about the same boxes: those of --cells, or those that the first model finds in --region. A dot's area is
    its attention weight, its colour the feature level that it reads.
    """
    from celldetr.explain import explain_slide

    check_file(out, overwrite, "explain.png")
    with Progress("explain", quiet) as progress:
        lines = explain_slide(
            slide,
            out,
            model or [None],
            cells,
            cell or (),
            options.region,
            options.mpp,
            options.tile,
            device,
            progress.counter("explain", "cells"),
        )
    for line in lines:
        typer.echo(line)
    typer.echo(f"figure: {out}")
