"""``celldetr doctor``: is this installation in order?"""

from __future__ import annotations

import sys

import typer


def doctor() -> None:
    """Examine the installation.

    Print versions, devices, threads, readers and weights; exit code 1 if something essential is broken.
    """
    from celldetr.doctor import collect, report

    diagnosis = collect()
    typer.echo(report(diagnosis, colour=sys.stdout.isatty()))
    if diagnosis["problems"]:
        raise typer.Exit(1)
