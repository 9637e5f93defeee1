"""The command line: parse, call, report; no logic.

A user's mistake is one line on standard error and exit code 2, as are wrong options; 3 says that a result has gaps; an
interruption is exit code 130 (SIGINT) or 143 (SIGTERM).
Results go to standard output, progress and notes to standard error. Heavy imports happen inside commands, so that
``--help`` is quick.
"""

from __future__ import annotations

import errno
import io
import logging
import sys
from typing import Annotated

import typer

from celldetr.cli.cells import cluster, explain, export, index, similar
from celldetr.cli.check import check
from celldetr.cli.command import Command
from celldetr.cli.data import data_app
from celldetr.cli.embed import embed
from celldetr.cli.evaluate import evaluate, rotations, threshold
from celldetr.cli.messages import complain
from celldetr.cli.predict import demo, predict
from celldetr.cli.probe import probe
from celldetr.cli.research import ablate
from celldetr.cli.spatial import spatial_app
from celldetr.cli.teach import labels, retype
from celldetr.cli.train import familiarity, pretrain, train
from celldetr.cli.view import view


def doctor() -> None:
    """Examine the installation.

    Print versions, devices, threads, readers and weights; exit code 1 if something essential is broken.
    """
    from celldetr.doctor import collect, report

    findings = collect()
    typer.echo(report(findings, colour=sys.stdout.isatty()))
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


def models() -> None:
    """List the models that can be used by name.

    With licence and metrics.
    """
    from rich.console import Console

    from celldetr.model.hub import cards
    from celldetr.report.models import models_table

    Console().print(models_table(cards()))


app = typer.Typer(
    name="celldetr",
    help="Every nucleus of an H&E slide located, typed and embedded.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 120},
    epilog="Start with:  celldetr demo -o demo     Then:  celldetr predict SLIDE -o OUT",
)


@app.callback(invoke_without_command=True)
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, in a clone with its commit, and exit.")
    ] = False,
) -> None:
    """Every nucleus of an H&E slide located, typed and embedded."""
    if version:
        from celldetr.version import describe

        typer.echo(describe())
        raise typer.Exit
    # A damaged TIFF makes tifffile log lines of its own beside our one.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())


for command in (
    predict,
    demo,
    embed,
    export,
    index,
    similar,
    cluster,
    view,
    retype,
    labels,
    train,
    pretrain,
    familiarity,
    evaluate,
    threshold,
    rotations,
):
    app.command(cls=Command)(command)
for command in (probe, explain, ablate, check, models, doctor):
    app.command(cls=Command)(command)
app.add_typer(data_app)
app.add_typer(spatial_app)


def main() -> None:
    """Entry point: a full disk, wherever it is met, becomes one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        # A pipe of Windows has a code page without the lines of our tables: they become question marks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="celldetr")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        complain(f"{error.filename or 'output'}: the disk is full; free some space and run again")
    else:
        return
    sys.exit(2)


if __name__ == "__main__":
    main()
