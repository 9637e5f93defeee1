"""Options that several commands share, and what an interruption says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.interrupt import Interrupted, stoppable

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results, one folder a slide; made if needed.")]
RunFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Name (see `celldetr models`) or folder of a model.", show_default="small-20x"),
]
Dataset = Annotated[
    str, typer.Argument(metavar="DATASET", help="A data set's card (YAML), one in the package, or a folder of labels.")
]
ImageMpp = Annotated[
    float | None, typer.Option(help="Micrometres per pixel of the images, instead of what they or their card say.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps; auto takes the fastest there is.")]
Devices = Annotated[int, typer.Option(help="Processes that share each batch, each with a device of its own.")]
PrecisionName = Annotated[str, typer.Option("--precision", help="32, bf16, or auto: bf16 where it is native.")]
Orientations = Annotated[
    int, typer.Option(help="1, 2, 4 or 8: average over so many flips and turns of each tile; costs as many times.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run; keep what is finished.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


@contextmanager
def resumable(how: str = "run again with --resume") -> Iterator[None]:
    """Say what an interruption leaves, and how to continue; typer itself would end without a word."""
    try:
        with stoppable():
            yield
    except KeyboardInterrupt as stop:
        typer.echo(f"interrupted; what is finished is kept, {how} to continue", err=True)
        raise typer.Exit(stop.code if isinstance(stop, Interrupted) else 130) from None
