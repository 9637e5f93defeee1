"""``celldetr rotations``: a cross-validation summed up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli import checks
from celldetr.cli.options import Overwrite


def rotations(
    metrics: Annotated[
        list[Path], typer.Argument(metavar="METRICS", help="What `celldetr evaluate` wrote for each test fold.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file for the result.")] = Path("rotations.json"),
    protocol: Annotated[str, typer.Option(help="Which of the protocols in the files.")] = "standard",
    overwrite: Overwrite = False,
) -> None:
    """Sum up a cross-validation (PanNuke's three rotations): each fold, mean and spread, by tissue too."""
    from rich.console import Console

    from celldetr.evaluation.format import show_rotations
    from celldetr.evaluation.rotations import rotations as sum_up

    checks.free(out, overwrite)
    result = sum_up(metrics, protocol)
    result.write(out)
    Console().print(show_rotations(result))
    typer.echo(f"rotations: {out}")
