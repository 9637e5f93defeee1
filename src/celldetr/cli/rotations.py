"""``celldetr rotations``: a cross-validation summed up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from celldetr.cli.options import Overwrite, check_file


def rotations(
    *,
    metrics: Annotated[
        list[Path], typer.Argument(metavar="METRICS", help="What `celldetr evaluate` wrote for each test fold.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="JSON file for the result.")] = Path(
        "rotations.json"
    ),
    protocol: Annotated[str, typer.Option(metavar="NAME", help="Which of the protocols in the files.")] = "standard",
    overwrite: Overwrite = False,
) -> None:
    """Sum up a cross-validation: each fold, mean and spread.

    PanNuke's three rotations, say; by tissue too.
    """
    from rich.console import Console

    from celldetr.evaluation.format import show_rotations
    from celldetr.evaluation.rotations import rotations as sum_up

    check_file(out, overwrite)
    result = sum_up(metrics, protocol)
    result.write(out)
    Console().print(show_rotations(result))
    typer.echo(f"rotations: {out}")
